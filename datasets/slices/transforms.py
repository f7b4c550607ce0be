"""What happens to a slice between the store and the network: intensities, crop, padding, augmentation."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from monai.data import get_track_meta, set_track_meta
from monai.transforms import (
    RandAdjustContrastd,
    RandAffined,
    RandFlipd,
    RandGaussianNoised,
    RandRotate90d,
    RandScaleIntensityd,
    RandShiftIntensityd,
)

STRIDE = 32  # the networks halve the image five times
AUGMENTATIONS = ("flip", "rot90", "affine", "intensity")
KEYS = ("image", "target")


def next_multiple(length: int, multiple: int = STRIDE) -> int:
    """Smallest multiple of `multiple` that holds `length` pixels."""
    return -(-length // multiple) * multiple


def normalize(image: np.ndarray, window: Sequence[float] | None, mean: float, std: float) -> np.ndarray:
    """Scale a CT window (HU) to [-1, 1], clipping outside it; without a window, z-score with the case's statistics.

    Returns float32 of the same shape. A case of constant intensity (std 0) becomes 0 everywhere.
    """
    image = image.astype(np.float32)
    if window is None:
        image -= mean
        image /= std or 1.0
        return image
    lower, upper = window
    image -= (lower + upper) / 2
    image /= (upper - lower) / 2
    return np.clip(image, -1.0, 1.0, out=image)


def pad_value(window: Sequence[float] | None) -> float:
    """Value of padded pixels after `normalize`: the low end of the window, or the case's mean for a z-score."""
    return 0.0 if window is None else -1.0


def pad_center(array: np.ndarray, size: tuple[int, int], value: float = 0) -> np.ndarray:
    """Pad (H, W) evenly on all sides up to `size`; a dimension that is already as large stays as it is."""
    height, width = array.shape
    padded_height, padded_width = max(size[0], height), max(size[1], width)
    if (padded_height, padded_width) == array.shape:
        return array
    top, left = (padded_height - height) // 2, (padded_width - width) // 2
    padded = np.full((padded_height, padded_width), value, dtype=array.dtype)
    padded[top : top + height, left : left + width] = array
    return padded


def padded_size(size: tuple[int, int], crop: int | None) -> tuple[int, int]:
    """Size at which a whole slice of `size` (H, W) goes through the network: at least `crop`, a multiple of 32."""
    return next_multiple(max(size[0], crop or 0)), next_multiple(max(size[1], crop or 0))


def unpad(array: Any, size: Sequence[int]) -> Any:
    """Undo `pad_center`: the central (H, W) of the last two dimensions. Takes tensors and arrays.

    `size` is the original (H, W), e.g. `sample["size"]`. Raises ValueError when the array is smaller than that.
    """
    height, width = (int(length) for length in size)
    spare_height, spare_width = array.shape[-2] - height, array.shape[-1] - width
    if spare_height < 0 or spare_width < 0:
        raise ValueError(
            f"cannot unpad {tuple(array.shape)} to {(height, width)}: it is smaller. "
            "Pass the size the slice had before padding (sample['size'])"
        )
    top, left = spare_height // 2, spare_width // 2
    return array[..., top : top + height, left : left + width]


def crop_corner(target: np.ndarray, side: int, generator: np.random.RandomState | None) -> tuple[int, int]:
    """Top-left corner of a `side` x `side` crop of a slice (H, W); 0 along a dimension shorter than `side`.

    Without a generator the central crop. With one, a random crop: its center lies within a quarter of `side` (per
    dimension) of a random foreground pixel if the slice has one and the border allows it, anywhere if it has none.
    """
    spare = [max(length - side, 0) for length in target.shape]
    if generator is None:
        return spare[0] // 2, spare[1] // 2
    foreground = np.flatnonzero(target)
    if len(foreground) == 0:
        return generator.randint(spare[0] + 1), generator.randint(spare[1] + 1)
    pixel = divmod(int(foreground[generator.randint(len(foreground))]), target.shape[1])
    shift = generator.randint(-(side // 4), side // 4 + 1, size=2)
    top, left = (
        min(max(position + int(offset) - side // 2, 0), limit)
        for position, offset, limit in zip(pixel, shift, spare, strict=True)
    )
    return top, left


class Augment:
    """Random MONAI transforms that move image and target together; a choice of flip, rot90, affine and intensity.

    flip: each axis with probability 1/2. rot90: 0, 90, 180 or 270 degrees alike. affine: with probability 0.3, up to 15
    degrees, 10 % scale and 1/16 of the side in shift, mirrored at the border. intensity (of an image in [-1, 1] or
    z-scored): gamma 0.7 to 1.5, 10 % scale, 0.1 shift, noise of standard deviation up to 0.05, each with probability
    0.15.

    Everything random comes from the generator of the call, so the same generator state gives the same sample in any
    worker process.
    """

    def __init__(self, names: Sequence[str], side: int) -> None:
        for name in names:
            if name not in AUGMENTATIONS:
                raise ValueError(f"augment {name!r} is unknown: choose from {', '.join(AUGMENTATIONS)}")
        shift = side / 16
        transforms = {
            "flip": [RandFlipd(KEYS, prob=0.5, spatial_axis=axis) for axis in (0, 1)],
            "rot90": [RandRotate90d(KEYS, prob=0.75, max_k=3)],
            "affine": [
                RandAffined(
                    KEYS,
                    prob=0.3,
                    rotate_range=np.pi / 12,
                    scale_range=(0.1, 0.1),
                    translate_range=(shift, shift),
                    mode=("bilinear", "nearest"),
                    padding_mode="reflection",
                )
            ],
            "intensity": [
                RandAdjustContrastd("image", prob=0.15, gamma=(0.7, 1.5)),
                RandScaleIntensityd("image", factors=0.1, prob=0.15),
                RandShiftIntensityd("image", offsets=0.1, prob=0.15),
                RandGaussianNoised("image", prob=0.15, std=0.05),
            ],
        }
        # A fixed order whatever the order asked for: geometry first, intensity last.
        self.transforms = [transform for name in AUGMENTATIONS if name in names for transform in transforms[name]]

    def __call__(
        self, image: torch.Tensor, target: torch.Tensor, generator: np.random.RandomState
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Image and target (1, H, W) with H = W, augmented alike; draws from `generator`."""
        sample = {"image": image, "target": target}
        track_meta = get_track_meta()
        set_track_meta(False)  # plain tensors: MONAI's record of what was done costs more than the transforms
        try:
            for transform in self.transforms:
                sample = transform.set_random_state(state=generator)(sample)
        finally:
            set_track_meta(track_meta)
        return sample["image"], sample["target"]
