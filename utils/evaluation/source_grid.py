"""Scores on the grids of the sources, where those are not the grids that slices are stored on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from datasets.json_files import read_json
from datasets.slices.back_to_source import BackToSource
from datasets.slices.resampling import grid_of
from datasets.slices.source_labels import SourceLabels
from datasets.slices.store import read_slice

if TYPE_CHECKING:
    from datasets.slices.dataset import SliceDataset


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
