"""What a network says of a volume's slices, one after the other, on the volume's own grid."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import TypeVar

from datasets.slices.arrays import Array
from datasets.slices.back_to_source import BackToSource, Rectangle
from datasets.slices.resampling import Grid

Item = TypeVar("Item")


class Answer:
    """The logits of a volume in one view of one model, asked for when they are needed.

    batches: logits (B, K, h, w) of the slices that the model is given, in their order.
    """

    def __init__(self, grid: Grid, batches: Iterator[Array]) -> None:
        self.grid, self.batches = grid, batches
        self._back = BackToSource(grid)

    def box(self, start: int, stop: int) -> Rectangle | None:
        """See `BackToSource.box`."""
        self._reach(stop)
        return self._back.box(start, stop)

    def take(self, start: int, stop: int, box: Rectangle) -> Array:
        """See `BackToSource.take`."""
        self._reach(stop)
        return self._back.take(start, stop, box)

    def leave(self, stop: int) -> None:
        """See `BackToSource.leave`; for slices of which nothing is taken."""
        self._back.leave(stop)

    def _reach(self, stop: int) -> None:
        while self._back.ready < stop:
            self._back.add(next(self.batches))


def shared(items: Iterator[Item], count: int) -> list[Iterator[Item]]:
    """So many iterators over the same items, each of which is let go when all have it; `itertools.tee` keeps dozens."""
    waiting: list[deque[Item]] = [deque() for _ in range(count)]

    def read(mine: deque[Item]) -> Iterator[Item]:
        while True:
            if not mine:
                try:
                    item = next(items)
                except StopIteration:
                    return
                for each in waiting:
                    each.append(item)
                del item
            yield mine.popleft()

    return [read(mine) for mine in waiting]


def union(boxes: Iterable[Rectangle | None]) -> Rectangle | None:
    """The smallest box that holds all of these; None where there are none.

    Where every answer says background so does their mean, since each gives it the largest probability.
    """
    found = [box for box in boxes if box is not None]
    if not found:
        return None
    rows, columns = zip(*found, strict=True)
    return _around(rows), _around(columns)


def _around(parts: tuple[slice, ...]) -> slice:
    return slice(min(part.start for part in parts), max(part.stop for part in parts))
