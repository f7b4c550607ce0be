"""Logits of stored slices brought back to the grid of their source before the argmax, so that edges stay smooth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from datasets.json_files import read_json
from datasets.slices.resampling import Grid, grid_of
from datasets.slices.source_labels import SourceLabels
from datasets.slices.store import read_slice
from utils.evaluation.metrics.labels import class_numbers

if TYPE_CHECKING:
    from datasets.slices.dataset import SliceDataset

Rectangle = tuple[slice, slice]  # rows and columns of the source


class BackToSource:
    """The logits of a case's source slices, from those of its stored slices, which are added in their order.

    Bilinear between the centers of pixels (`align_corners=False`), linear between the centers of slabs; beyond the
    outermost centers the nearest counts. Only the stored slices that are still needed are held.
    """

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self._places = [grid.positions(axis) for axis in range(3)]
        self._held: Tensor | None = None
        self._first = 0  # the number of the first stored slice that is held

    @property
    def ready(self) -> int:
        """How many of the source's slices, from the first on, lie among the stored ones that were added."""
        added = self._first + (0 if self._held is None else len(self._held))
        return int(np.searchsorted(self._places[0], added - 1, side="right"))

    def add(self, logits: Tensor) -> None:
        """Logits (B, K, h, w) of the next stored slices."""
        self._held = logits if self._held is None else torch.cat([self._held, logits])

    def box(self, start: int, stop: int) -> Rectangle | None:
        """Where a pixel of the source's slices `start` to `stop` - 1 may not be background; None: nowhere.

        Between stored pixels that all are background there is background: logits are weighted means of theirs.
        """
        marked = (class_numbers(self._around(start, stop)) > 0).any(0)
        parts = []
        for axis in (1, 2):
            lines = marked.any(2 - axis).nonzero().flatten().tolist()
            if not lines:
                return None
            places = self._places[axis]
            begin = int(np.searchsorted(places, lines[0] - 1, side="right"))
            end = int(np.searchsorted(places, lines[-1] + 1, side="left"))
            if begin == end:  # pixels of the source are farther apart than those lines
                return None
            parts.append(slice(begin, end))
        return parts[0], parts[1]

    def take(self, start: int, stop: int, box: Rectangle | None = None) -> Tensor:
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

    def _around(self, start: int, stop: int) -> Tensor:
        """The stored slices among which these slices of the source lie."""
        lowest, highest = self._reach(0, slice(start, stop))
        return self._held[lowest - self._first : highest + 1 - self._first]

    def _reach(self, axis: int, part: slice) -> tuple[int, int]:
        """The first and the last of the stored slices, rows or columns among which this part of the source's lies."""
        return int(self._places[axis][part.start]), int(np.ceil(self._places[axis][part.stop - 1]))

    def _along(self, axis: int, values: Tensor, part: slice, first: int = 0) -> Tensor:
        """A part of the source's slices (axis 0), rows or columns. first: the number of the first stored one here."""
        dimension = axis + (axis > 0)  # (B, K, h, w)
        if self.grid.source[axis] == self.grid.stored[axis]:
            return values.narrow(dimension, part.start - first, part.stop - part.start)
        places = torch.from_numpy(self._places[axis][part] - first)
        low = places.long()
        shape = [-1 if each == dimension else 1 for each in range(4)]
        weights = (places - low).to(values).view(shape)
        high = places.ceil().long()
        below, above = (values.index_select(dimension, each.to(values.device)) for each in (low, high))
        return torch.lerp(below, above, weights)


class OnSource:
    """Takes the batches of an evaluation, case after case, to the source's grid of each case."""

    def __init__(self, dataset: SliceDataset) -> None:
        self._root, self._lookup = Path(dataset.root), torch.from_numpy(dataset.lookup).long()
        self._case: str | None = None
        self._done = 0  # slices of its source that were scored

    def __call__(
        self, logits: Tensor, target: Tensor, cases: Sequence[str]
    ) -> Iterator[tuple[Tensor, Tensor, list[str]]]:
        """Logits (n, K, H, W), targets (n, 1, H, W) and the case of each, in parts no longer than the batch.

        Raises ValueError where a case's source labels are absent or damaged.
        """
        first = 0
        for case, group in groupby(cases):
            count = len(list(group))
            part = slice(first, first + count)
            first += count
            if case != self._case:
                self._open(case)
            if self._labels is None:
                yield logits[part], target[part], [case] * count
                continue
            self._back.add(logits[part])
            ready = self._back.ready
            while self._done < ready:
                start, stop = self._done, min(self._done + len(logits), ready)
                labels = self._lookup[torch.from_numpy(self._labels.read(start, stop)).int()][:, None]
                yield self._back.take(start, stop), labels.to(logits.device), [case] * (stop - start)
                self._done = stop

    def _open(self, case: str) -> None:
        folder = self._root / case
        grid = grid_of(read_json(folder / "geometry.json"))
        self._labels = SourceLabels(folder) if grid.is_resampled else None
        self._case, self._back, self._done = case, BackToSource(grid), 0


def on_source(dataset: Any) -> OnSource | None:
    """What scores a dataset on the sources' own grids; None where it holds them already."""
    preprocessing = dataset.preprocessing
    return OnSource(dataset) if preprocessing.get("spacing") or preprocessing.get("slice_spacing") else None


def source_slices(dataset: SliceDataset, case: str) -> np.ndarray:
    """The slices (n, H, W) of a case on its source's grid, as smooth as the stored ones are."""
    slices = np.stack([read_slice(record.path)[0] for record in dataset.records if record.case == case])
    grid = grid_of(read_json(Path(dataset.root) / case / "geometry.json"))
    if not grid.is_resampled:
        return slices
    back = BackToSource(grid)
    back.add(torch.from_numpy(slices.astype(np.float32))[:, None])
    return back.take(0, grid.source[0])[:, 0].numpy().astype(slices.dtype)
