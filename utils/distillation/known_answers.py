"""What a teacher answered to the views of a split, in the memory of the device that trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from datasets.batches.moves import on_device


class KnownAnswers:
    """Features by the number of a view: a row for every view that comes, filled in as it becomes known.

    Which row a view has is remembered beside the device, so that nothing waits for it.

    Args:
        count: How many different views come; 0 where nothing is to be kept.
        room: Returns the bytes that all rows may take. Where they take more, nothing is kept.
    """

    def __init__(self, count: int, room: Callable[[], float]) -> None:
        self._count, self._room = count, room
        self._place: dict[int, int] = {}
        self._rows: dict[str, Tensor] = {}

    def unknown(self, views: Sequence[int]) -> list[int]:
        """The positions of views that no answer is known to."""
        return [position for position, view in enumerate(views) if view not in self._place]

    def keep(self, views: Sequence[int], features: Mapping[str, Tensor]) -> bool:
        """Keeps features (B, ...) by tap; False where there is no room for those of all views."""
        if not self._rows and self._count:
            self._rows = self._made(features)
            self._count *= bool(self._rows)
        if not self._count:
            return False
        for view in views:
            self._place.setdefault(view, len(self._place))
        for tap, rows in self._rows.items():
            rows[self._index(views)] = features[tap]
        return True

    def read(self, views: Sequence[int]) -> dict[str, Tensor]:
        """The features (B, ...) of views that are known."""
        index = self._index(views)
        return {tap: rows[index] for tap, rows in self._rows.items()}

    def _made(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        size = sum(feature[0].numel() * feature.element_size() for feature in features.values())
        if size * self._count > self._room():
            return {}
        try:
            return {tap: feature.new_empty(self._count, *feature.shape[1:]) for tap, feature in features.items()}
        except torch.OutOfMemoryError:
            return {}

    def _index(self, views: Sequence[int]) -> Tensor:
        places = np.array([self._place[view] for view in views])
        return on_device(places, next(iter(self._rows.values())).device)
