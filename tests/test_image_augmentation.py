"""Random changes to training images: what each does, how often, and that nothing else decides about them."""

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.batches.draws import Draws
from datasets.images.augmentation import COLUMNS, Augmentation
from datasets.images.dataset import ImageOptions, ImageRecord, LabeledImages

PUBLISHED = {
    "HDKD": Augmentation(flip=True, rotation=180, brightness=0.3, contrast=0.3, sharpness=2, blur=(0.1, 2)),
    "ISIC": Augmentation(
        flip=True, rotation=30, scale=(0.8, 1.2), brightness=0.2, contrast=0.2, saturation=0.2, hue=0.05
    ),
    "plain": Augmentation(flip=True, rot90=True, scale=(0.9, 1.1), shift=0.05),
}


def noise(side: int = 16, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, channels), dtype=np.uint8)


def drawn(augmentation: Augmentation, image: np.ndarray, count: int = 64, seed: int = 0, epoch: int = 0) -> np.ndarray:
    """`count` repetitions of one training image of bytes (S, S, C): float32 (count, S, S, C) of 0 to 255."""
    options = ImageOptions(len(image), image.shape[2], "none", augmentation, seed=seed)
    patients = {"train": ["a"], "val": ["b"], "test": []}
    dataset = LabeledImages([ImageRecord("a", "a", 0)], lambda _: image, ["one"], "train", patients, options)
    dataset.epoch = epoch
    return dataset.batch(range(count))["image"].permute(0, 2, 3, 1).numpy() * 255


def square(side: int = 32, reach: int = 4) -> np.ndarray:
    """A white square of 2 * reach pixels in the middle of black."""
    image = np.zeros((side, side, 3), np.uint8)
    image[side // 2 - reach : side // 2 + reach, side // 2 - reach : side // 2 + reach] = 255
    return image


def test_left_out_nothing_changes():
    assert drawn(Augmentation(), noise(), 4) == pytest.approx(np.stack([noise()] * 4), abs=1e-4)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_one_changes_pixels_and_keeps_their_range(name, channels):
    image = noise(32, channels)
    results = drawn(PUBLISHED[name], image, 16)
    assert results.shape == (16, 32, 32, channels)
    assert len({result.tobytes() for result in results}) == 16
    assert results.min() >= -1e-4 and results.max() <= 255.001
    assert np.abs(results - image).mean((1, 2, 3)).min() > 1


@pytest.mark.parametrize("name", PUBLISHED)
def test_seed_epoch_and_index_alone_decide(name):
    first = drawn(PUBLISHED[name], noise(), 8, seed=1, epoch=2)
    np.random.seed(5)
    torch.manual_seed(5)
    assert (drawn(PUBLISHED[name], noise(), 8, seed=1, epoch=2) == first).all()
    assert (drawn(PUBLISHED[name], noise(), 3, seed=1, epoch=2) == first[:3]).all()
    for seed, epoch in ((0, 2), (1, 0), (2, 1)):
        assert (drawn(PUBLISHED[name], noise(), 8, seed, epoch) != first).any((1, 2, 3)).all()


def counted(results: np.ndarray, choices: list[np.ndarray]) -> list[int]:
    counts = [sum((result == choice).all() for result in results.round()) for choice in choices]
    assert sum(counts) == len(results)
    return counts


def test_flip_turns_each_axis_half_of_the_time():
    image = noise(8)
    counts = counted(
        drawn(Augmentation(flip=True), image, 400), [image, image[::-1], image[:, ::-1], image[::-1, ::-1]]
    )
    assert min(counts) > 70  # 100 each expected, standard deviation 8.7


def test_mirror_turns_left_to_right_only():
    image = noise(8)
    assert min(counted(drawn(Augmentation(mirror=True), image, 400), [image, image[:, ::-1]])) > 160


def test_rot90_takes_the_four_turns_alike():
    image = noise(8)
    turns = [np.rot90(image, turn) for turn in range(4)]
    assert min(counted(drawn(Augmentation(rot90=True), image, 400), turns)) > 70


def pillow_moved(image: np.ndarray, angle: float, magnification: float, across: float, down: float) -> np.ndarray:
    """Turn by degrees and scale about the center, then shift by pixels, of an image that is mirrored around it."""
    side, margin = len(image), 2 * len(image)
    wide = np.pad(image, ((margin, margin), (margin, margin), (0, 0)), "symmetric")
    cosine, sine = (of(np.deg2rad(angle)) / magnification for of in (np.cos, np.sin))
    # Pillow wants, for a pixel of the result, where it comes from.
    center, column, row = side / 2 + margin, side / 2 + across, side / 2 + down
    matrix = (
        *(cosine, sine, center - cosine * column - sine * row),
        *(-sine, cosine, center + sine * column - cosine * row),
    )
    return np.asarray(
        Image.fromarray(wide).transform((side, side), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    )


def test_rotation_scale_and_shift_are_one_resampling_as_pillow_does_it():
    augmentation = Augmentation(rotation=180, scale=(0.5, 2.0), shift=0.4)
    image = np.asarray(Image.fromarray(noise(6)).resize((24, 24), Image.Resampling.BICUBIC))
    numbers = Draws(1, len(COLUMNS), seed=0)(range(32))
    angle, scale, across, down = numbers.T[3:7]
    for result, *place in zip(
        drawn(augmentation, image, 32),
        angle * 360 - 180,
        0.5 + scale * 1.5,
        (across - 0.5) * 0.8 * 24,
        (down - 0.5) * 0.8 * 24,
        strict=True,
    ):
        assert np.abs(result - pillow_moved(image, *place)).max() < 1  # Pillow's are whole numbers


def test_scale_is_the_magnification_of_the_content():
    # a square of 8 x 8 = 64 pixels, magnified by 2: 256, by 1/2: 16
    for scale, area in ((2.0, 256), (0.5, 16)):
        result = drawn(Augmentation(scale=(scale, scale)), square(), 1)[0]
        assert result[6:26, 6:26, 0].sum() / 255 == pytest.approx(area, rel=0.05)


def test_scale_is_about_the_center():
    result = drawn(Augmentation(scale=(1.5, 1.5)), square(), 1)[0, ..., 0]
    assert result == pytest.approx(result[::-1], abs=0.01) and result == pytest.approx(result[:, ::-1], abs=0.01)


def test_rotation_keeps_to_its_largest_angle_and_reaches_it():
    image = np.zeros((65, 65, 3), np.uint8)
    image[31:34, 32:] = 255  # a hand that points to the right
    angles = []
    for result in drawn(Augmentation(rotation=30), image, 100):
        rows, columns = np.nonzero(result[12:53, 12:53, 0] > 128)
        angles.append(np.degrees(np.arctan2((rows - 20).mean(), (columns - 20).mean())))
    assert 25 < max(angles) < 32 and -32 < min(angles) < -25


def test_shift_moves_by_at_most_its_fraction_of_the_side():
    moved = [np.argwhere(result[..., 0] > 128).mean(0) - 15.5 for result in drawn(Augmentation(shift=0.25), square())]
    for axis in (0, 1):
        along = [step[axis] for step in moved]
        assert 6 < max(along) <= 8.5 and -8.5 <= min(along) < -6  # 0.25 * 32 = 8


@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation(rotation=180),
        Augmentation(rotation=45, scale=(0.3, 0.3), shift=0.5),
        Augmentation(shift=0.5),
    ],
)
def test_what_comes_from_outside_is_mirrored_and_never_black(augmentation):
    image = np.full((24, 24, 3), 90, np.uint8)
    assert drawn(augmentation, image) == pytest.approx(90, abs=0.01)


def test_brightness_is_a_factor_within_its_range():
    values = drawn(Augmentation(brightness=0.3), np.full((8, 8, 3), 100, np.uint8), 200)[:, 0, 0, 0]
    assert 70 <= values.min() < 72 and 128 < values.max() <= 130


def test_contrast_keeps_the_mean_and_scales_about_it():
    image = np.full((8, 8, 3), 80, np.uint8)
    image[:, 4:] = 120
    results = drawn(Augmentation(contrast=0.5), image)
    assert results.mean((1, 2, 3)) == pytest.approx(100, abs=0.01)
    spread = results[:, 0, 7, 0] - results[:, 0, 0, 0]
    assert 20 <= spread.min() < 22 and 58 < spread.max() <= 60  # 40 * 0.5 to 40 * 1.5


def test_saturation_leaves_gray_alone_and_hue_too():
    image = np.full((8, 8, 3), 80, np.uint8)
    assert drawn(Augmentation(saturation=0.5, hue=0.5), image) == pytest.approx(80, abs=0.01)


def test_saturation_is_a_factor_within_its_range():
    image = np.zeros((8, 8, 3), np.uint8)
    image[..., 0] = 100  # a gray of 29.9
    spread = np.ptp(drawn(Augmentation(saturation=0.4), image, 200)[:, 0, 0], axis=1)
    assert 60 <= spread.min() < 62
    assert 126 < spread.max() <= 128.1  # 29.9 + 1.4 * 70.1 = 128: what is black cannot become darker


def test_hue_turns_red_to_green_at_a_third():
    image = np.zeros((8, 8, 3), np.uint8)
    image[..., 0] = 255
    assert set(drawn(Augmentation(hue=0.5), image)[:, 0, 0].argmax(1)) == {0, 1, 2}
    assert set(drawn(Augmentation(hue=0.1), image)[:, 0, 0].argmax(1)) == {0}


def test_sharpness_is_applied_with_its_probability():
    image = noise(16)
    changed = np.abs(drawn(Augmentation(sharpness=2), image, 400) - image).max((1, 2, 3)) > 0.5
    assert 160 < changed.sum() < 240
    always = drawn(Augmentation(sharpness=2, sharpness_probability=1), image)
    assert (always.std((1, 2, 3)) > image.std()).all()


def test_blur_is_always_applied_and_is_a_gaussian_of_three_pixels():
    image = np.zeros((9, 9, 3), np.uint8)
    image[4, 4] = 255
    result = drawn(Augmentation(blur=(1.0, 1.0)), image, 1)[0, ..., 0]
    # weights e^-0.5 : 1 : e^-0.5 over 2.2131 are 0.2741, 0.4519, 0.2741; 255 * 0.4519^2 = 52, * 0.2741 = 32, 19
    assert result[3:6, 3:6].round().tolist() == [[19, 32, 19], [32, 52, 32], [19, 32, 19]]
    assert result.sum() == pytest.approx(result[3:6, 3:6].sum())
    peaks = drawn(Augmentation(blur=(0.5, 2.0)), image)[:, 4, 4, 0]
    assert peaks.max() < 255 and peaks.min() < 40 and len(set(peaks)) > 50


def test_the_changes_come_in_the_order_of_the_arguments():
    image = np.full((8, 8, 1), 100, np.uint8)
    image[:, 4:] = 200
    augmentation = Augmentation(brightness=1.0, contrast=1.0)
    brightness, contrast = augmentation.changes(Draws(1, len(COLUMNS), seed=0)(range(32)), 8)["amounts"].T[:2]
    left, right = np.clip(100 * brightness, 0, 255), np.clip(200 * brightness, 0, 255)
    for number, result in enumerate(drawn(augmentation, image, 32)):
        mean = (left[number] + right[number]) / 2
        expected = [
            np.clip(mean + contrast[number] * (value - mean), 0, 255) for value in (left[number], right[number])
        ]
        assert result[0, [0, 7], 0].tolist() == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"rotation": 200}, "augment.rotation 200 .* 0 to 180"),
        ({"brightness": -0.1}, "augment.brightness"),
        ({"scale": (1.2, 0.8)}, "augment.scale"),
        ({"scale": (0.0, 1.0)}, "augment.scale"),
        ({"blur": (0.0, 2.0)}, "augment.blur"),
        ({"sharpness": -1}, "augment.sharpness"),
    ],
)
def test_a_value_out_of_range_is_refused(values, said):
    with pytest.raises(ValueError, match=said):
        Augmentation(**values)
