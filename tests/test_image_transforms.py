"""What happens to an image before the network sees it: worked values, and what must not change."""

import numpy as np
import pytest

from datasets.images.transforms import Augmentation, Preparation, as_json, generator_of, preparation

PUBLISHED = {
    "HDKD": Augmentation(flip=True, rotation=180, brightness=0.3, contrast=0.3, sharpness=2, blur=(0.1, 2)),
    "ISIC": Augmentation(
        flip=True, rotation=30, scale=(0.8, 1.2), brightness=0.2, contrast=0.2, saturation=0.2, hue=0.05
    ),
    "plain": Augmentation(flip=True, rot90=True, scale=(0.9, 1.1), shift=0.05),
}


def noise(side: int = 16, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, channels), dtype=np.uint8)


def drawn(augmentation: Augmentation, image: np.ndarray, count: int = 64) -> list[np.ndarray]:
    return [augmentation(image, generator_of(0, 0, index)) for index in range(count)]


def square(side: int = 32, reach: int = 4) -> np.ndarray:
    """A white square of 2 * reach pixels in the middle of black."""
    image = np.zeros((side, side, 3), np.uint8)
    image[side // 2 - reach : side // 2 + reach, side // 2 - reach : side // 2 + reach] = 255
    return image


# Preparation


@pytest.mark.parametrize(
    ("normalization", "expected"),
    [
        # 51 / 255 = 0.2
        ("none", [0.2, 0.2, 0.2]),
        ("half", [-0.6, -0.6, -0.6]),
        ("imagenet", [(0.2 - 0.485) / 0.229, (0.2 - 0.456) / 0.224, (0.2 - 0.406) / 0.225]),
    ],
)
def test_values_are_normalized_per_channel(normalization, expected):
    image = preparation(8, 3, normalization).normalize(np.full((8, 8, 3), 51, np.uint8))
    assert image.shape == (3, 8, 8)
    assert image[:, 3, 5].tolist() == pytest.approx(expected, abs=1e-6)


def test_one_channel_has_the_mean_of_the_statistics():
    gray = preparation(8, 1, "imagenet")
    assert (gray.mean, gray.std) == ((0.449,), (0.226,))  # of 0.485 0.456 0.406 and of 0.229 0.224 0.225
    assert gray.normalize(np.full((8, 8, 1), 51, np.uint8))[0, 0, 0].item() == pytest.approx((0.2 - 0.449) / 0.226)


def test_channels_keep_their_order():
    image = np.zeros((8, 8, 3), np.uint8)
    image[..., 1] = 255
    assert preparation(8, 3, "none").normalize(image)[:, 0, 0].tolist() == [0, 1, 0]


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 1)])
def test_a_gray_image_is_repeated(shape):
    image = noise(8, 1).reshape(shape)
    assert (preparation(8, 3, "none").resize(image) == image.reshape(8, 8, 1)).all()


def test_a_color_image_becomes_its_luma():
    image = np.zeros((8, 8, 3), np.uint8)
    image[:] = (200, 100, 50)
    # 0.299 * 200 + 0.587 * 100 + 0.114 * 50 = 124.2
    assert preparation(8, 1, "none").resize(image).tolist() == np.full((8, 8, 1), 124).tolist()


def test_the_whole_image_is_resized_and_antialiased():
    image = np.zeros((40, 80, 3), np.uint8)
    image[:, 1::2] = 255  # stripes as fine as pixels: without antialiasing they would turn black or white
    image[:, -20:] = 255
    small = preparation(8, 3, "none").resize(image)
    assert small.shape == (8, 8, 3)
    assert small[:, :5].min() > 100 and small[:, :5].max() < 155
    assert (small[:, 7] == 255).all()  # the right end is still there


def test_an_image_of_the_right_size_stays_as_it_is():
    assert (preparation(16, 3, "none").resize(noise()) == noise()).all()


def test_the_preparation_survives_json():
    first = preparation(16, 3, "imagenet")
    again = Preparation(**as_json(first))
    assert (again.normalize(noise()) == first.normalize(noise())).all()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [((4, 3, "half"), "image_size 4"), ((32, 2, "half"), "in_channels 2"), ((32, 3, "halve"), "'halve'")],
)
def test_a_preparation_that_cannot_be_is_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        preparation(*arguments)


# Augmentation


def test_left_out_nothing_changes():
    assert (Augmentation()(noise(), generator_of(0, 0, 0)) == noise()).all()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_one_changes_pixels_and_keeps_shape_and_type(name, channels):
    image = noise(32, channels)
    before = image.copy()
    results = drawn(PUBLISHED[name], image, 16)
    assert all(result.shape == image.shape and result.dtype == np.uint8 for result in results)
    assert len({result.tobytes() for result in results}) > 8
    assert (image == before).all()


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_generator_alone_decides(name):
    first = PUBLISHED[name](noise(), generator_of(1, 2, 3))
    np.random.seed(5)
    assert (PUBLISHED[name](noise(), generator_of(1, 2, 3)) == first).all()
    for other in ((0, 2, 3), (1, 0, 3), (1, 2, 0), (1, 3, 2)):
        assert (PUBLISHED[name](noise(), generator_of(*other)) != first).any()


def counted(results: list[np.ndarray], choices: list[np.ndarray]) -> list[int]:
    counts = [sum((result == choice).all() for result in results) for choice in choices]
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


def test_scale_is_the_magnification_of_the_content():
    # a square of 8 x 8 = 64 pixels, magnified by 2: 256, by 1/2: 16
    for scale, area in ((2.0, 256), (0.5, 16)):
        result = Augmentation(scale=(scale, scale))(square(), generator_of(0, 0, 0))
        assert result[6:26, 6:26, 0].sum() / 255 == pytest.approx(area, rel=0.05)


def test_scale_is_about_the_center():
    result = Augmentation(scale=(1.5, 1.5))(square(), generator_of(0, 0, 0))[..., 0]
    assert (result == result[::-1]).all() and (result == result[:, ::-1]).all()


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
    assert all((result == 90).all() for result in drawn(augmentation, image))


def test_the_border_is_a_mirror():
    image = noise(16)
    # shrunk to half about the center, the outermost quarters are the image's own, mirrored
    result = Augmentation(scale=(0.5, 0.5))(image, generator_of(0, 0, 0))
    inner = Augmentation(scale=(0.5, 0.5))(np.pad(image, ((8, 8), (8, 8), (0, 0)), "reflect"), generator_of(0, 0, 0))
    assert (result == inner[8:24, 8:24]).all()


def test_brightness_is_a_factor_within_its_range():
    image = np.full((8, 8, 3), 100, np.uint8)
    values = [result[0, 0, 0] for result in drawn(Augmentation(brightness=0.3), image, 200)]
    assert 70 <= min(values) < 75 and 125 < max(values) <= 130


def test_contrast_keeps_the_mean_and_scales_about_it():
    image = np.full((8, 8, 3), 80, np.uint8)
    image[:, 4:] = 120
    for result in drawn(Augmentation(contrast=0.5), image):
        assert result.mean() == pytest.approx(100, abs=1)
        assert 19 <= int(result[0, 7, 0]) - int(result[0, 0, 0]) <= 61  # 40 * 0.5 to 40 * 1.5


def test_saturation_leaves_gray_alone_and_hue_too():
    image = np.full((8, 8, 3), 80, np.uint8)
    assert all((result == 80).all() for result in drawn(Augmentation(saturation=0.5, hue=0.5), image))


def test_hue_turns_red_to_green_at_a_third():
    image = np.zeros((8, 8, 3), np.uint8)
    image[..., 0] = 255
    strongest = {int(result[0, 0].argmax()) for result in drawn(Augmentation(hue=0.5), image)}
    assert strongest == {0, 1, 2}
    assert {int(result[0, 0].argmax()) for result in drawn(Augmentation(hue=0.1), image)} == {0}


def test_sharpness_is_applied_with_its_probability():
    image = noise(16)
    changed = [(result != image).any() for result in drawn(Augmentation(sharpness=2), image, 400)]
    assert 160 < sum(changed) < 240
    always = Augmentation(sharpness=2, sharpness_probability=1)
    assert all(result.std() > image.std() for result in drawn(always, image))


def test_blur_is_always_applied_and_is_a_gaussian_of_three_pixels():
    image = np.zeros((9, 9, 3), np.uint8)
    image[4, 4] = 255
    result = Augmentation(blur=(1.0, 1.0))(image, generator_of(0, 0, 0))[..., 0]
    # weights e^-0.5 : 1 : e^-0.5 over 2.2131 are 0.2741, 0.4519, 0.2741; 255 * 0.4519^2 = 52, * 0.2741 = 32, 19
    assert result[3:6, 3:6].tolist() == [[19, 32, 19], [32, 52, 32], [19, 32, 19]]
    assert result.sum() == result[3:6, 3:6].sum()
    assert all((result != image).any() for result in drawn(Augmentation(blur=(0.5, 2.0)), image))


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
