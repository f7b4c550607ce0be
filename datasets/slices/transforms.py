"""What happens to every slice between the store and the network: intensities and padding."""

from collections.abc import Sequence
from typing import Any

import numpy as np

STRIDE = 32  # the networks halve the image five times


def next_multiple(length: int, multiple: int = STRIDE) -> int:
    """Smallest multiple of `multiple` that holds `length` pixels."""
    return -(-length // multiple) * multiple


def intensity_scale(window: Sequence[float] | None, mean: float, std: float) -> tuple[float, float]:
    """What is subtracted from an image, and what it is then divided by, see `normalize`."""
    if window is None:
        return mean, std or 1.0
    lower, upper = window
    return (lower + upper) / 2, (upper - lower) / 2


def normalize(image: np.ndarray, window: Sequence[float] | None, mean: float, std: float) -> np.ndarray:
    """Scale a CT window (HU) to [-1, 1], clipping outside it; without a window, z-score with the case's statistics.

    Returns float32 of the same shape. A case of constant intensity (std 0) becomes 0 everywhere.
    """
    image = image.astype(np.float32)
    center, extent = intensity_scale(window, mean, std)
    image -= center
    image /= extent
    return image if window is None else np.clip(image, -1.0, 1.0, out=image)


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
