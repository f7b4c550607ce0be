"""What happens to a labeled image between the file and the network: size, channels, normalization."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

NORMALIZATIONS = {  # mean and standard deviation of values in [0, 1]
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
MINIMUM_SIZE = 8


@dataclass(frozen=True)
class Preparation:
    """How a stored image becomes the network's input, the same for training, evaluation and prediction.

    The whole image is resized to a square (bilinear, antialiased): nothing is cut away, and an image that is not square
    changes its proportions.

    Args:
        image_size: Side of the square in pixels.
        in_channels: 3 (a gray image is repeated) or 1 (a color image becomes its luma, ITU-R 601).
        mean: Subtracted from values in [0, 1], one a channel.
        std: Then divided by, one a channel.
    """

    image_size: int
    in_channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def resize(self, image: np.ndarray) -> Tensor:
        """uint8 (H, W), (H, W, 1) or (H, W, 3) -> uint8 (in_channels, image_size, image_size)."""
        picture = Image.fromarray(image[..., 0] if image.shape[2:] == (1,) else image)
        picture = picture.convert("RGB" if self.in_channels == 3 else "L")
        side = self.image_size
        if picture.size != (side, side):
            picture = picture.resize((side, side), Image.Resampling.BILINEAR)
        pixels = np.asarray(picture).reshape(side, side, self.in_channels)
        return torch.from_numpy(np.array(pixels.transpose(2, 0, 1), order="C"))

    def normalize(self, image: Tensor) -> Tensor:
        """Values of 0 to 255, (C, H, W) or (B, C, H, W), -> float32 of the same shape."""
        values = torch.empty_like(image, dtype=torch.float32)
        # By numbers of the host, a channel at a time: a tensor of them would have to be brought to the image's device.
        for channel, out, mean, std in zip(image.unbind(-3), values.unbind(-3), self.mean, self.std, strict=True):
            torch.mul(channel, 1 / (255 * std), out=out).add_(-mean / std)
        return values


def preparation(image_size: int, in_channels: Literal[1, 3], normalization: str) -> Preparation:
    """The Preparation of a named normalization; a single channel has the mean of the three channels' statistics.

    Raises ValueError for a size that is too small, and for an unknown number of channels or name.
    """
    if image_size < MINIMUM_SIZE:
        raise ValueError(f"image_size {image_size} is too small: give a side of at least {MINIMUM_SIZE} pixels")
    if in_channels not in (1, 3):
        raise ValueError(f"in_channels {in_channels}: images have 3 channels (color) or 1 (gray)")
    if normalization not in NORMALIZATIONS:
        raise ValueError(f"normalization {normalization!r} is unknown: choose from {', '.join(NORMALIZATIONS)}")
    mean, std = NORMALIZATIONS[normalization]
    if in_channels == 1:
        mean, std = (round(sum(mean) / 3, 3),), (round(sum(std) / 3, 3),)
    return Preparation(image_size, in_channels, mean, std)


def as_json(preparation: Preparation) -> dict[str, Any]:
    """Plain values; `Preparation(**as_json(preparation))` is the same again but for lists."""
    return {
        "image_size": preparation.image_size,
        "in_channels": preparation.in_channels,
        "mean": list(preparation.mean),
        "std": list(preparation.std),
    }
