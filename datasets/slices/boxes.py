"""Boxes of a volume (slices, rows, columns): where its foreground lies, and how far it reaches beyond."""

import math
from collections.abc import Sequence

import numpy as np

from datasets.slices.resampling import Grid

Box = tuple[slice, slice, slice]


def box_of(labels: np.ndarray, grid: Grid) -> Box | None:
    """The part of the source that the stored voxels above 0 lie in; None where there are none.

    labels: (slices, rows, columns) of the grid's stored voxels.
    """
    parts = []
    for axis in range(3):
        lines = np.flatnonzero(labels.any(tuple(other for other in range(3) if other != axis)))
        if not len(lines):
            return None
        first, end, length = int(lines[0]), int(lines[-1]) + 1, grid.source[axis]
        if axis == 0:
            parts.append(slice(first * grid.slab, min(end * grid.slab, length)))
        else:
            stored = grid.stored[axis]
            parts.append(slice(first * length // stored, -(-end * length // stored)))
    return parts[0], parts[1], parts[2]


def grown(box: Box, margin_mm: float, millimeters: Sequence[float], shape: Sequence[int]) -> Box:
    """A box that reaches farther by a margin on all sides, as far as the volume goes."""
    more = [math.ceil(margin_mm / mm) for mm in millimeters]
    first, second, third = (
        slice(max(0, part.start - each), min(length, part.stop + each))
        for part, each, length in zip(box, more, shape, strict=True)
    )
    return first, second, third


def at_least(box: Box, size: Sequence[int], shape: Sequence[int]) -> Box:
    """A box of at least (rows, columns), as far as the volume has so many, about the same center where it can be."""
    parts = [box[0]]
    for part, wanted, length in zip(box[1:], size, shape[1:], strict=True):
        width = min(length, max(wanted, part.stop - part.start))
        start = min(max(0, (part.start + part.stop - width) // 2), length - width)
        parts.append(slice(start, start + width))
    return parts[0], parts[1], parts[2]


def deeper(box: Box, slices: int, shape: Sequence[int]) -> Box:
    """A box that reaches so many slices farther at both of its ends, as far as the volume goes."""
    return slice(max(0, box[0].start - slices), min(shape[0], box[0].stop + slices)), box[1], box[2]


def beyond_mm(marked: np.ndarray, box: Box, millimeters: Sequence[float]) -> np.ndarray:
    """How many mm a box lacks of each voxel that is marked, along the axis where it lacks most; 0 within it.

    marked: bool (slices, rows, columns).
    """
    farthest = np.zeros(int(np.count_nonzero(marked)))
    for places, part, mm in zip(np.nonzero(marked), box, millimeters, strict=True):
        outside = np.maximum(part.start - places, places - (part.stop - 1))
        np.maximum(farthest, outside * mm, out=farthest)
    return farthest
