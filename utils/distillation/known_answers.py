"""What a teacher answered to the views of a split, in the memory of the device that trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor


class KnownAnswers:
    """Features by the number of a view: as many rows as there are views, filled in as they become known.

    Which rows are known is remembered beside the device, so that nothing waits for it.

    Args:
        views: How many there are; 0 where nothing is to be kept.
        limit: Bytes that all rows may take. Where they take more, nothing is kept.
    """

    def __init__(self, views: int, limit: float) -> None:
        self._known, self._limit = np.zeros(views, bool), limit
        self._rows: dict[str, Tensor] = {}

    def unknown(self, views: Sequence[int]) -> list[int]:
        """The positions of views that no answer is known to."""
        return [position for position, view in enumerate(views) if not self._knows(view)]

    def _knows(self, view: int) -> bool:
        return view < len(self._known) and bool(self._known[view])

    def keep(self, views: Sequence[int], features: Mapping[str, Tensor]) -> bool:
        """Keeps features (B, ...) by tap; False where there is no room for those of all views."""
        if not self._rows:
            size = sum(feature[0].numel() * feature.element_size() for feature in features.values())
            if size * len(self._known) > self._limit or not len(self._known):
                self._known = self._known[:0]
                return False
            self._rows = {
                tap: torch.empty(len(self._known), *feature.shape[1:], dtype=feature.dtype, device=feature.device)
                for tap, feature in features.items()
            }
        for tap, rows in self._rows.items():
            rows[self._index(views)] = features[tap]
        self._known[list(views)] = True
        return True

    def read(self, views: Sequence[int]) -> dict[str, Tensor]:
        """The features (B, ...) of views that are known."""
        index = self._index(views)
        return {tap: rows[index] for tap, rows in self._rows.items()}

    def _index(self, views: Sequence[int]) -> Tensor:
        return torch.tensor(views).to(next(iter(self._rows.values())).device, non_blocking=True)
