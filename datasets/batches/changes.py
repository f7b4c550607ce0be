"""Changes of some samples of a batch: which ones is known on the host, so nothing waits for the device to say."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from datasets.batches.draws import gaussian
from datasets.batches.moves import warp_grid, warped

CACHED = 2**18  # numbers
EPSILON = 1e-7  # as MONAI's AdjustContrast has it


def at_a_time(batch: Tensor) -> int:
    """How many samples (B, ...) to work on: as many as a CPU's caches hold, or all on a GPU, whose calls are dear."""
    return max(1, CACHED // batch[0].numel()) if batch.device.type == "cpu" else len(batch)


def scaled(stored: Tensor, scale: Tensor) -> Tensor:
    """(x - center) / extent of stored samples (B, C, H, W) of any number format, as float32.

    scale: float32 (B, 2), center and extent of each sample.
    """
    image = torch.empty(stored.shape, device=stored.device)
    center, extent = scale.T[..., None, None, None]
    step = at_a_time(stored)
    for first in range(0, len(stored), step):
        part = slice(first, first + step)
        torch.sub(stored[part], center[part], out=image[part]).div_(extent[part])
    return image


def chosen(where: np.ndarray, *columns: np.ndarray) -> np.ndarray:
    """A table of the samples to change, float64 (changed, 1 + columns): the place of each in the batch and its values.

    where: bool (B,). columns: (B,), or (B, several).
    """
    rows = np.flatnonzero(where)
    return np.column_stack((rows.astype(np.float64), *(column[rows] for column in columns)))


def changed(batch: tuple[Tensor, ...], table: Tensor, change: Callable[..., tuple[Tensor, ...]]) -> None:
    """Change the samples that a table names, in place.

    Args:
        batch: Tensors (B, C, H, W).
        table: See `chosen`.
        change: `change(*samples, values)` returns as many tensors as it is given, (n, C, H, W), and `values` are (n,
            columns).
    """
    for part in table.split(at_a_time(batch[0])):
        rows = part[:, 0].long()
        samples = change(*(tensor.index_select(0, rows) for tensor in batch), part[:, 1:])
        for tensor, sample in zip(batch, samples, strict=True):
            tensor.index_copy_(0, rows, sample)


def warp(image: Tensor, target: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """Resample by matrices (see `affine_matrices`), (n, 6), the last of `others`: the target to the nearest.

    The image, and what lies before the matrices, bilinearly.
    """
    *maps, values = others
    grid = warp_grid(values, image.shape[2:])
    nearest = warped(target, grid, "nearest").to(target.dtype)
    return warped(image, grid, "bilinear"), nearest, *(warped(each, grid, "bilinear") for each in maps)


def adjust_contrast(image: Tensor, values: Tensor) -> tuple[Tensor]:
    """((x - min) / (max - min)) ** gamma, scaled back, with each sample's extremes. values: gamma, (n, 1)."""
    lowest, highest = image.amin((1, 2, 3), keepdim=True), image.amax((1, 2, 3), keepdim=True)
    extent = highest - lowest
    share = ((image - lowest) / (extent + EPSILON)).double()
    share = share.log_().mul_(values[..., None, None]).exp_()  # half the time of a power; 0 stays 0
    return (share.to(image.dtype).mul_(extent).add_(lowest),)


def scale_and_shift(image: Tensor, values: Tensor) -> tuple[Tensor]:
    """x * factor + offset. values: factor and offset, (n, 2)."""
    factor, offset = values.to(image.dtype).T[..., None, None, None]
    return (image.mul(factor).add_(offset),)


def add_noise(image: Tensor, values: Tensor) -> tuple[Tensor]:
    """Gaussian noise. values: its standard deviation and its key (see `gaussian`), (n, 2)."""
    deviation, key = values.T
    noise = gaussian(key.long(), image[0].numel()).mul_(deviation[:, None])
    return (image + noise.to(image.dtype).view_as(image),)
