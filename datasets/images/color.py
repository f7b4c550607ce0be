"""Changes of brightness, contrast, saturation, hue and sharpness of a batch of images, each image by its own amount.

They compute what Pillow's ImageEnhance and ImageFilter do to one image of bytes, in floating point and so without their
rounding after each change. No function waits for the device.
"""

import torch
from torch import Tensor

WHITE = 255.0
LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, of red, green and blue
SEXTANTS = (5, 3, 1)  # of the hue circle, where red, green and blue begin to fall


def luma(image: Tensor) -> Tensor:
    """Gray (B, 1, H, W) of a color image (B, 3, H, W); an image of one channel is gray already."""
    if image.shape[1] == 1:
        return image
    red, green, blue = (channel * weight for channel, weight in zip(image.split(1, dim=1), LUMA, strict=True))
    return red.add_(green).add_(blue)


def brightness(image: Tensor, factor: Tensor) -> Tensor:
    """Multiply images (B, C, H, W) of 0 to 255 by a factor (B,); what exceeds 255 is white."""
    return (image * _each(factor)).clamp_(0, WHITE)


def contrast(image: Tensor, factor: Tensor) -> Tensor:
    """Scale images (B, C, H, W) of 0 to 255 about the mean of their gray by a factor (B,), clipped to 0 to 255."""
    # Row by row: the threads of a processor share out the sum of all pixels otherwise in a batch of one.
    mean = luma(image).mean(3, keepdim=True).mean(2, keepdim=True)
    return torch.lerp(mean, image, _each(factor)).clamp_(0, WHITE)


def saturation(image: Tensor, factor: Tensor) -> Tensor:
    """Scale images (B, C, H, W) of 0 to 255 about their gray, pixel by pixel, by a factor (B,), clipped to 0 to 255."""
    return torch.lerp(luma(image), image, _each(factor)).clamp_(0, WHITE)


def hue(image: Tensor, turn: Tensor) -> Tensor:
    """Turn the hue of images (B, C, H, W) by (B,) turns of the hue circle: 1/3 makes red green. Gray stays as it is."""
    if image.shape[1] == 1:
        return image
    red, green, blue = image.unbind(1)
    value = image.amax(1)
    chroma = value - image.amin(1)
    # Six sextants from red over green and blue to red; where there is no chroma, any hue will do.
    divisor = torch.where(chroma > 0, chroma, 1)
    angle = torch.where(value == green, (blue - red) / divisor + 2, (red - green) / divisor + 4)
    angle = torch.where(value == red, (green - blue) / divisor, angle) + 6 * turn[:, None, None]
    channels = []
    for start in SEXTANTS:
        place = angle + start
        place.sub_(torch.floor(place / 6), alpha=6)
        fall = torch.minimum(place, 4 - place).clamp_(0, 1)
        channels.append(value - fall.mul_(chroma))
    return torch.stack(channels, dim=1)


def sharpness(image: Tensor, factor: Tensor) -> Tensor:
    """Blend images (B, C, H, W) of 0 to 255 with themselves smoothed: 0 smooths, 1 changes nothing, 2 sharpens.

    Smoothed is a mean of 3x3 pixels in which the one in the middle counts five times. The outermost pixels stay as
    they are. factor: (B,).
    """
    inner = image[..., 1:-1, 1:-1]
    smooth = _window_sum(image, torch.ones_like(factor)).add_(inner, alpha=4).div_(13)
    changed = image.clone()
    changed[..., 1:-1, 1:-1] = torch.lerp(smooth, inner, _each(factor)).clamp_(0, WHITE)
    return changed


def blur(image: Tensor, sigma: Tensor) -> Tensor:
    """Blur images (B, C, H, W) with a Gaussian of 3x3 pixels; the outermost pixels stay as they are.

    sigma: Standard deviation in pixels, (B,), above 0.
    """
    beside = torch.exp(-0.5 / sigma**2)
    changed = image.clone()
    changed[..., 1:-1, 1:-1] = _window_sum(image, beside).div_(_each((1 + 2 * beside) ** 2))
    return changed


def _window_sum(image: Tensor, beside: Tensor) -> Tensor:
    """Sum over windows of 3x3 pixels, (B, C, H-2, W-2), weighted by (beside, 1, beside) along both axes."""
    weight = _each(beside)
    rows = (image[..., :-2, :] + image[..., 2:, :]).mul_(weight).add_(image[..., 1:-1, :])
    return (rows[..., :-2] + rows[..., 2:]).mul_(weight).add_(rows[..., 1:-1])


def _each(parameter: Tensor) -> Tensor:
    """(B,) beside (B, C, H, W)."""
    return parameter[:, None, None, None]
