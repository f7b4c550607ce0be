"""Logits of stored slices brought back to the grid of their source before the argmax, so that edges stay smooth."""

from __future__ import annotations

import numpy as np

from datasets.slices.arrays import Array, class_numbers, module_of, on_host, taken
from datasets.slices.resampling import Grid

Rectangle = tuple[slice, slice]  # rows and columns of the source


class BackToSource:
    """The logits of a case's source slices, from those of its stored slices, which are added in their order.

    Bilinear between the centers of pixels (`align_corners=False`), linear between the centers of slabs; beyond the
    outermost centers the nearest counts. Only the stored slices that are still needed are held.
    """

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self._places = [grid.positions(axis) for axis in range(3)]
        self._held: Array | None = None
        self._first = 0  # the number of the first stored slice that is held

    @property
    def ready(self) -> int:
        """How many of the source's slices, from the first on, lie among the stored ones that were added."""
        added = self._first + (0 if self._held is None else len(self._held))
        return int(np.searchsorted(self._places[0], added - 1, side="right"))

    def add(self, logits: Array) -> None:
        """Logits (B, K, h, w) of the next stored slices."""
        self._held = logits if self._held is None else module_of(logits).concatenate([self._held, logits])

    def box(self, start: int, stop: int) -> Rectangle | None:
        """Where a pixel of the source's slices `start` to `stop` - 1 may not be background; None: nowhere.

        Between stored pixels that all are background there is background: logits are weighted means of theirs.
        """
        marked = on_host((class_numbers(self._around(start, stop)) > 0).any(0))
        parts = []
        for axis in (1, 2):
            lines = np.flatnonzero(marked.any(2 - axis))
            if not len(lines):
                return None
            places = self._places[axis]
            begin = int(np.searchsorted(places, lines[0] - 1, side="right"))
            end = int(np.searchsorted(places, lines[-1] + 1, side="left"))
            if begin == end:  # pixels of the source are farther apart than those lines
                return None
            parts.append(slice(begin, end))
        return parts[0], parts[1]

    def take(self, start: int, stop: int, box: Rectangle | None = None) -> Array:
        """Logits (stop - start, K, H, W) of these slices of the source, which must be ready; of a box in them.

        Slices are taken in order: they are left, see `leave`.
        """
        rows, columns = box or tuple(slice(0, length) for length in self.grid.source[1:])
        lowest, highest = self._reach(1, rows)
        logits = self._along(2, self._around(start, stop)[:, :, lowest : highest + 1], columns)
        logits = self._along(1, logits, rows, lowest)
        logits = self._along(0, logits, slice(start, stop), int(self._places[0][start]))
        self.leave(stop)
        return logits

    def leave(self, stop: int) -> None:
        """Let go of the stored slices that only the source's slices before `stop` need; those must be ready."""
        first = int(self._places[0][stop]) if stop < self.grid.source[0] else self.grid.stored[0]
        left = self._held[first - self._first :]
        self._held, self._first = (left if len(left) else None), first

    def _around(self, start: int, stop: int) -> Array:
        """The stored slices among which these slices of the source lie."""
        lowest, highest = self._reach(0, slice(start, stop))
        return self._held[lowest - self._first : highest + 1 - self._first]

    def _reach(self, axis: int, part: slice) -> tuple[int, int]:
        """The first and the last of the stored slices, rows or columns among which this part of the source's lies."""
        return int(self._places[axis][part.start]), int(np.ceil(self._places[axis][part.stop - 1]))

    def _along(self, axis: int, values: Array, part: slice, first: int = 0) -> Array:
        """A part of the source's slices (axis 0), rows or columns. first: the number of the first stored one here."""
        dimension = axis + (axis > 0)  # (B, K, h, w)
        if self.grid.source[axis] == self.grid.stored[axis]:
            everything = (slice(None),) * dimension
            return values[(*everything, slice(part.start - first, part.stop - first))]
        places = self._places[axis][part] - first
        low = places.astype(np.int64)
        below, result = taken(values, low, dimension), taken(values, np.ceil(places).astype(np.int64), dimension)
        share = (places - low).astype(np.float32).reshape([-1 if each == dimension else 1 for each in range(4)])
        result -= below
        result *= share if isinstance(result, np.ndarray) else module_of(result).from_numpy(share).to(result)
        result += below
        return result
