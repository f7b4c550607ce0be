"""The grid that a case is stored on for a spacing in mm, and its slices brought to that grid.

In-plane the edges of the field of view stay where they are: a row of 512 pixels of 0.78 mm becomes 250 of 1.6 mm (of
1.59744 mm, to be exact). Along the slices a slab is the mean of neighboring slices; the last slab may be thinner.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any

import numpy as np

from datasets.volumes.geometry import spacing_of

SHARES = 1 << 16  # the steps in which shares of a pixel are compared: rounding does not decide between equal ones


@dataclass(frozen=True)
class Grid:
    """The (slices, rows, columns) of a source and of what is stored of it, which is slabs of `slab` slices."""

    source: tuple[int, int, int]
    stored: tuple[int, int, int]
    slab: int = 1

    @property
    def is_resampled(self) -> bool:
        return self.source != self.stored

    def positions(self, axis: int) -> np.ndarray:
        """The centers of the source's slices (axis 0), rows (1) or columns (2), numbered by those of the stored ones.

        0 is the first of these; what lies before it counts as 0, and what lies beyond the last as the last.
        """
        length, stored = self.source[axis], self.stored[axis]
        numbers = np.arange(length)
        if axis > 0:
            return np.clip((numbers + 0.5) * stored / length - 0.5, 0, stored - 1)
        first = np.arange(stored) * self.slab
        centers = (first + np.minimum(first + self.slab, length) - 1) / 2
        return np.interp(numbers, centers, np.arange(stored))


def grid_for(
    shape: Sequence[int], millimeters: Sequence[float], spacing: float | None, slice_spacing: float | None
) -> Grid:
    """The grid of a case of (slices, rows, columns), whose voxels measure so many mm; None: as the source has it."""
    count, *size = (int(length) for length in shape)
    slab = max(1, round(slice_spacing / millimeters[0])) if slice_spacing else 1
    if spacing:
        pairs = zip(size, millimeters[1:], strict=True)
        stored = [max(1, round(length * each / spacing)) for length, each in pairs]
    else:
        stored = size
    return Grid((count, *size), (-(-count // slab), *stored), slab)


def asked_spacing(asked: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """The mm in-plane and of slabs that a dataset.json or a preprocessing names; None: whatever a volume has."""
    return asked.get("spacing"), asked.get("slice_spacing")


def asked_words(asked: Mapping[str, Any]) -> str:
    """The spacing that a store or a network has, for its reader; empty where it is that of each volume."""
    spacing, slice_spacing = asked_spacing(asked)
    parts = [f"{spacing:g} mm in-plane"] if spacing else []
    return ", ".join(parts + ([f"slabs of {slice_spacing:g} mm"] if slice_spacing else []))


def needs_millimeters(preprocessing: Mapping[str, Any]) -> bool:
    """Whether a network must know what a voxel measures: it learnt slices, or neighbors of slices, of a spacing."""
    has_neighbors = bool(preprocessing.get("neighbors"))
    return any(asked_spacing(preprocessing)) or (has_neighbors and bool(preprocessing.get("neighbor_mm")))


def describe(grid: Grid, millimeters: Sequence[float], spacing: float | None) -> str:
    """What a volume of voxels of so many mm (slices, rows, columns) is resampled to, for its reader."""
    parts = []
    if grid.stored[1:] != grid.source[1:]:
        parts.append(f"from {millimeters[1]:.2f} x {millimeters[2]:.2f} mm to {spacing:.2f} mm in-plane")
    if grid.slab > 1:
        slab = grid.slab * millimeters[0]
        parts.append(f"from slices of {millimeters[0]:.2f} mm to slabs of {slab:.2f} mm")
    return f"resampled {' and '.join(parts)}"


def grid_of(geometry: Mapping[str, Any]) -> Grid:
    """The grid that a published case is stored on, by the content of its geometry.json."""
    source = tuple(geometry["shape"][axis] for axis in geometry["axes"])
    stored = geometry.get("stored")
    return Grid(source, tuple(stored["shape"]), stored["slab"]) if stored else Grid(source, source)


def stored_millimeters(geometry: Mapping[str, Any]) -> list[float]:
    """What a stored voxel measures in mm along slices, rows and columns, by the content of its geometry.json."""
    source = [spacing_of(geometry["affine"])[axis] for axis in geometry["axes"]]
    if "stored" not in geometry:
        return source
    grid = grid_of(geometry)
    lengths = (grid.slab, *(grid.source[axis] / grid.stored[axis] for axis in (1, 2)))
    return [each * length for each, length in zip(source, lengths, strict=True)]


def resampled(slices: Iterable[np.ndarray], grid: Grid) -> Iterator[np.ndarray]:
    """The stored slices of a source's slices (H, W) in their order: int16 HU rounded, or float32; see `Grid`."""
    if not grid.is_resampled:
        yield from slices
        return
    source = iter(slices)
    while slab := list(islice(source, grid.slab)):
        mean = slab[0].astype(np.float32)
        for other in slab[1:]:
            mean += other
        mean /= len(slab)
        image = _resized(mean, grid.stored[1:])
        yield np.rint(image).astype(np.int16) if slab[0].dtype == np.int16 else image


def resampled_label(labels: Sequence[np.ndarray], count: int, size: Sequence[int]) -> np.ndarray:
    """The stored label (h, w) uint8 of a slab: the value that holds the largest share of each pixel.

    Of equal shares background wins, then the lowest value. labels: those slices (H, W) of the slab that hold any;
    count: how many slices it has.
    """
    stored = np.zeros(size, np.uint8)
    marked = np.bitwise_or.reduce(labels, axis=0) if len(labels) else np.zeros((0, 0), np.uint8)
    if not marked.any():
        return stored
    found, places, weights = [], [], []
    for axis in (0, 1):
        lines = np.flatnonzero(marked.any(1 - axis))
        part = slice(lines[0], lines[-1] + 1)
        every = _weights(marked.shape[axis], size[axis])[:, part]
        reached = np.flatnonzero(every.any(1))
        found.append(part)
        places.append(slice(reached[0], reached[-1] + 1))
        weights.append(every[places[-1]])
    parts = [label[tuple(found)] for label in labels]
    values = np.flatnonzero(np.bincount(np.concatenate([part.ravel() for part in parts])))
    values = values[values > 0]
    shares = np.stack([sum((part == value).astype(np.float32) for part in parts) for value in values]) / count
    shares = np.rint(weights[0] @ shares @ weights[1].T * SHARES)
    best = np.argmax([SHARES - shares.sum(0), *shares], axis=0)
    stored[tuple(places)] = np.array([0, *values], np.uint8)[best]
    return stored


@lru_cache
def _weights(length: int, stored: int) -> np.ndarray:
    """What each of the source's pixels along an axis has in each stored one: (stored, length), each row sums to 1."""
    return _resized(np.eye(length, dtype=np.float32), (stored, length))


def _resized(image: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """A float32 image (H, W) in another size, its edges in place: no detail finer than a pixel becomes a coarse one.

    The filter is a triangle, twice as wide as a pixel of the source or of the result, whichever is larger.
    """
    from PIL import Image  # for what is not resampled it is never needed

    height, width = size
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR, reducing_gap=None))
