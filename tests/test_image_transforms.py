"""How an image is prepared for a network: worked values, and what must not change."""

import numpy as np
import pytest
import torch

from datasets.images.transforms import Preparation, as_json, preparation


def noise(side: int = 16, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, channels), dtype=np.uint8)


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
    image = preparation(8, 3, normalization).normalize(torch.full((3, 8, 8), 51, dtype=torch.uint8))
    assert image.shape == (3, 8, 8)
    assert image[:, 3, 5].tolist() == pytest.approx(expected, abs=1e-6)


def test_one_channel_has_the_mean_of_the_statistics():
    gray = preparation(8, 1, "imagenet")
    assert (gray.mean, gray.std) == ((0.449,), (0.226,))  # of 0.485 0.456 0.406 and of 0.229 0.224 0.225
    image = gray.normalize(torch.full((1, 8, 8), 51, dtype=torch.uint8))
    assert image[0, 0, 0].item() == pytest.approx((0.2 - 0.449) / 0.226)


def test_channels_keep_their_order():
    image = np.zeros((8, 8, 3), np.uint8)
    image[..., 1] = 255
    ready = preparation(8, 3, "none")
    assert ready.normalize(ready.resize(image))[:, 0, 0].tolist() == [0, 1, 0]


def test_a_batch_is_normalized_as_its_images_are_and_stays_as_it_was():
    ready = preparation(16, 3, "imagenet")
    images = torch.stack([ready.resize(noise(seed=seed)) for seed in range(3)])
    before = images.clone()
    expected = torch.stack([ready.normalize(image) for image in images])
    for values in (images, images.float()):
        assert torch.equal(ready.normalize(values), expected)
    assert torch.equal(images, before)


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 1)])
def test_a_gray_image_is_repeated(shape):
    image = noise(8, 1).reshape(shape)
    assert (preparation(8, 3, "none").resize(image).numpy() == image.reshape(8, 8)).all()


def test_a_color_image_becomes_its_luma():
    image = np.zeros((8, 8, 3), np.uint8)
    image[:] = (200, 100, 50)
    # 0.299 * 200 + 0.587 * 100 + 0.114 * 50 = 124.2
    assert preparation(8, 1, "none").resize(image).tolist() == np.full((1, 8, 8), 124).tolist()


def test_the_whole_image_is_resized_and_antialiased():
    image = np.zeros((40, 80, 3), np.uint8)
    image[:, 1::2] = 255  # stripes as fine as pixels: without antialiasing they would turn black or white
    image[:, -20:] = 255
    small = preparation(8, 3, "none").resize(image)
    assert small.shape == (3, 8, 8)
    assert small[..., :5].min() > 100 and small[..., :5].max() < 155
    assert (small[..., 7] == 255).all()  # the right end is still there


def test_an_image_of_the_right_size_stays_as_it_is():
    assert (preparation(16, 3, "none").resize(noise()).numpy() == noise().transpose(2, 0, 1)).all()


def test_the_preparation_survives_json():
    first = preparation(16, 3, "imagenet")
    again = Preparation(**as_json(first))
    assert torch.equal(again.normalize(again.resize(noise())), first.normalize(first.resize(noise())))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [((4, 3, "half"), "image_size 4"), ((32, 2, "half"), "in_channels 2"), ((32, 3, "halve"), "'halve'")],
)
def test_a_preparation_that_cannot_be_is_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        preparation(*arguments)
