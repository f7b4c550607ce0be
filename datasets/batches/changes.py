"""Changes of some samples of a batch: which ones is known on the host, so nothing waits for the device to say."""

from collections.abc import Callable

import numpy as np
from torch import Tensor

from datasets.batches.draws import gaussian

EPSILON = 1e-7  # as MONAI's AdjustContrast has it


def chosen(where: np.ndarray, *columns: np.ndarray) -> np.ndarray:
    """A table of the samples to change, float64 (changed, 1 + columns): the place of each in the batch and its values.

    where: bool (B,). columns: (B,), or (B, several).
    """
    rows = np.flatnonzero(where)
    parts = [column[rows].reshape(len(rows), -1) for column in columns]
    return np.concatenate((rows[:, None].astype(np.float64), *parts), axis=1)


def changed(image: Tensor, table: Tensor, change: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The batch (B, C, H, W), in place, after `change(samples, values)` of those that the table names."""
    rows = table[:, 0].long()
    return image.index_copy_(0, rows, change(image.index_select(0, rows), table[:, 1:]))


def adjust_contrast(image: Tensor, values: Tensor) -> Tensor:
    """((x - min) / (max - min)) ** gamma, scaled back, with each sample's extremes. values: gamma, (B, 1)."""
    lowest, highest = image.amin((1, 2, 3), keepdim=True), image.amax((1, 2, 3), keepdim=True)
    extent = highest - lowest
    share = ((image - lowest) / (extent + EPSILON)).double().pow_(values[..., None, None])
    return share.to(image.dtype).mul_(extent).add_(lowest)


def scale_and_shift(image: Tensor, values: Tensor) -> Tensor:
    """x * factor + offset. values: factor and offset, (B, 2)."""
    factor, offset = values.to(image.dtype).T[..., None, None, None]
    return image.mul(factor).add_(offset)


def add_noise(image: Tensor, values: Tensor) -> Tensor:
    """Gaussian noise. values: its standard deviation and its key (see `gaussian`), (B, 2)."""
    deviation, key = values.T
    noise = gaussian(key.long(), image[0].numel()) * deviation[:, None]
    return image + noise.to(image.dtype).view_as(image)
