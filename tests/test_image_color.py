"""The color changes of a batch of images, beside what Pillow makes of each of them."""

import colorsys

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageFilter

from datasets.images import color

CHANGES = (color.brightness, color.contrast, color.saturation, color.hue, color.sharpness, color.blur)
FACTORS = (0.0, 0.4, 1.0, 1.3, 2.0)
TURNS = (-0.5, -0.2, 0.0, 0.1, 1 / 3)
SIGMAS = (0.1, 0.5, 1.0, 2.0, 5.0)


def photos(channels: int, side: int = 20) -> np.ndarray:
    """Five images of bytes (5, S, S, C): coarse color patches with a little noise, as photos have."""
    random = np.random.default_rng(channels)
    patches = random.integers(0, 256, (5, side // 4, side // 4, channels)).repeat(4, axis=1).repeat(4, axis=2)
    return np.clip(patches + random.integers(-9, 10, patches.shape), 0, 255).astype(np.uint8)


def changed(change, images: np.ndarray, parameters: tuple[float, ...]) -> np.ndarray:
    """(B, S, S, C) float32, by one call for the whole batch."""
    batch = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    before = batch.clone()
    result = change(batch, torch.tensor(parameters))
    assert torch.equal(batch, before) and result.shape == batch.shape and result.dtype == torch.float32
    return result.permute(0, 2, 3, 1).numpy()


def by_pillow(change, images: np.ndarray, parameters: tuple[float, ...]) -> np.ndarray:
    results = []
    for image, parameter in zip(images, parameters, strict=True):
        picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
        results.append(np.asarray(change(picture, parameter)).reshape(image.shape))
    return np.stack(results).astype(np.float32)


def turned(picture: Image.Image, turn: float) -> Image.Image:
    hue, saturation, value = picture.convert("HSV").split()
    hue = Image.fromarray(((np.asarray(hue).astype(int) + round(turn * 256)) % 256).astype(np.uint8))
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")


def blurred(picture: Image.Image, sigma: float) -> Image.Image:
    row = np.exp(-0.5 * np.array([1, 0, 1]) / sigma**2)
    return picture.filter(ImageFilter.Kernel((3, 3), np.outer(row, row).ravel().tolist()))


# Pillow rounds gray, mean and smoothed image to whole steps, scales that by the factor, and cuts the result off.
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("change", "reference", "parameters", "steps"),
    [
        (color.brightness, lambda picture, f: ImageEnhance.Brightness(picture).enhance(f), FACTORS, 1),
        (color.contrast, lambda picture, f: ImageEnhance.Contrast(picture).enhance(f), FACTORS, 1.51),
        (color.saturation, lambda picture, f: ImageEnhance.Color(picture).enhance(f), FACTORS, 1.51),
        (color.sharpness, lambda picture, f: ImageEnhance.Sharpness(picture).enhance(f), FACTORS, 1.51),
        (color.blur, blurred, SIGMAS, 0.51),
    ],
)
def test_each_image_of_a_batch_is_as_pillow_changes_it(change, reference, parameters, steps, channels):
    images = photos(channels)
    result, expected = changed(change, images, parameters), by_pillow(reference, images, parameters)
    assert np.abs(result - expected).max() <= steps
    assert result.min() >= 0 and result.max() <= 255
    moves = [np.abs(one - image).max() for one, image in zip(result, images.astype(np.float32), strict=True)]
    assert sum(move > 3 for move in moves) >= (0 if (change, channels) == (color.saturation, 1) else 3)


def test_hue_is_as_pillow_turns_it():
    images = photos(3)
    result, expected = changed(color.hue, images, TURNS), by_pillow(turned, images, TURNS)
    # Pillow cuts the hue off to 256 steps, each 6 steps of a channel, and saturation and value to whole ones.
    assert np.abs(result - expected).max() <= 12
    assert np.abs(result - expected).mean() < 2
    assert np.abs(result[0] - images[0]).max() > 100


def test_hue_is_turned_exactly():
    images = photos(3, 8)
    expected = np.empty(images.shape)
    for place in np.ndindex(*images.shape[:3]):
        hue, saturation, value = colorsys.rgb_to_hsv(*images[place] / 255)
        expected[place] = 255 * np.array(colorsys.hsv_to_rgb((hue + TURNS[place[0]]) % 1, saturation, value))
    assert np.abs(changed(color.hue, images, TURNS) - expected).max() < 1e-3


def test_a_third_of_a_turn_makes_red_green_and_another_blue():
    pixels = torch.tensor([[255.0, 10, 40]]).reshape(1, 3, 1, 1).repeat(2, 1, 1, 1)
    result = color.hue(pixels, torch.tensor([1 / 3, 2 / 3]))[:, :, 0, 0]
    torch.testing.assert_close(result, torch.tensor([[40.0, 255, 10], [10, 40, 255]]), atol=1e-3, rtol=0)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("change", "neutral"),
    [
        (color.brightness, 1.0),
        (color.contrast, 1.0),
        (color.saturation, 1.0),
        (color.hue, 0.0),
        (color.sharpness, 1.0),
        (color.blur, 0.05),
    ],
)
def test_a_neutral_amount_leaves_an_image_as_it_is(change, neutral, channels):
    images = photos(channels)
    assert np.abs(changed(change, images, (neutral,) * 5) - images).max() < 1e-3


def test_contrast_is_about_the_mean_gray_of_each_image_alone():
    images = np.zeros((2, 4, 4, 1), np.uint8)
    images[0, :2], images[0, 2:], images[1] = 80, 120, 200
    result = changed(color.contrast, images, (0.5, 0.5))
    assert result[:, 0, 0, 0].tolist() == [90, 200] and result[0, 3, 0, 0] == 110  # 100 -+ 20 / 2


@pytest.mark.parametrize(("change", "amount"), [(color.sharpness, 2.0), (color.blur, 1.0)])
def test_the_outermost_pixels_stay(change, amount):
    images = photos(3)
    result = changed(change, images, (amount,) * 5)
    inner = np.zeros(images.shape[1:3], bool)
    inner[1:-1, 1:-1] = True
    assert (result == images)[:, ~inner].all()
    assert (result != images)[:, inner].any()


@pytest.mark.parametrize("change", CHANGES)
def test_an_image_is_changed_alike_in_any_batch(change):
    images, amounts = torch.rand(12, 3, 200, 200) * 255, torch.linspace(0.2, 1.4, 12)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)  # which share out the sum of a single image, if they may
    try:
        together = change(images, amounts)
        alone = torch.cat([change(images[n : n + 1], amounts[n : n + 1]) for n in range(12)])
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(together, alone)


@pytest.mark.parametrize("change", CHANGES)
def test_no_value_is_read_from_the_device(change):
    assert change(torch.empty(2, 3, 8, 8, device="meta"), torch.empty(2, device="meta")).shape == (2, 3, 8, 8)
