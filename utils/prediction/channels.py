"""What a network is given of each slice of a volume: the slice and its neighbors, scaled and padded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from datasets.slices.neighbors import neighborhoods, offsets_of
from datasets.slices.resampling import Grid
from datasets.slices.transforms import normalize, pad_center, padded_size

Channels = Sequence[np.ndarray]


def channels(
    slices: Iterable[np.ndarray],
    grid: Grid,
    slice_mm: float,
    preprocessing: Mapping[str, Any],
    mean: float,
    std: float,
) -> Iterator[Channels]:
    """For each of a grid's stored slices (H, W) its channels, float32 (H', W') each, from inferior to superior.

    A slice is scaled and padded once, and kept only while it is a neighbor; see `neighborhoods`.

    slice_mm: from one slice of the source to the next. mean, std: of the whole volume.
    """
    window, value, crop = preprocessing["window"], preprocessing["pad_value"], preprocessing["crop"]
    scaled = (
        pad_center(normalize(image, window, mean, std), padded_size(image.shape, crop), value) for image in slices
    )
    offsets = offsets_of(preprocessing.get("neighbors", 0), preprocessing.get("neighbor_mm"), slice_mm * grid.slab)
    return neighborhoods(scaled, grid.stored[0], offsets)


def stacked(slices: Iterable[Channels]) -> np.ndarray | None:
    """The channels of several slices as a batch (B, C, H, W); None where there are no more."""
    each = list(slices)
    if not each:
        return None
    planes = np.stack([plane for channels in each for plane in channels])
    return planes.reshape(len(each), -1, *planes.shape[1:])
