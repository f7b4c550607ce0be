"""Batches on the device of a run: read where they are, or gathered and copied ahead of their use."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from utils.recipe.contracts import Samples


class Loader:
    """Batches of a dataset on a device, in any order that is asked for.

    A split that the device holds is read there. From elsewhere the batches are gathered ahead of their use, by
    `workers` processes, which live as long as the loader, or by a thread, and copied to a GPU while it is at work on
    the batch before.
    """

    def __init__(self, dataset: Samples, device: torch.device, workers: int = 0) -> None:
        self.dataset, self.device = dataset, device
        self._copies = device.type == "cuda" and not dataset.hold(device)
        self._at_once = workers == 0 if device.type != "cuda" else not self._copies
        self._processes = None
        if workers and not self._at_once:
            self._order = _Batches()
            self._processes = DataLoader(
                _Fetched(dataset.gather if self._copies else dataset.batch),
                batch_size=None,
                sampler=self._order,
                num_workers=workers,
                collate_fn=_as_it_is,
                pin_memory=self._copies,
                worker_init_fn=_silence,
                persistent_workers=True,
                generator=torch.Generator(),  # its own: an exact resume needs the global one as it was
            )

    def __call__(self, batches: Sequence[Sequence[int]]) -> Iterator[dict[str, Any]]:
        """The batches of these samples, in this order."""
        if self._at_once:
            return map(self._moved, map(self.dataset.batch, batches))
        if self._processes is None:
            return self._copied(self._gathered(batches))
        self._order.batches = batches
        return self._copied(iter(self._processes)) if self._copies else map(self._moved, self._processes)

    def _moved(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch on the device; most are there already."""
        return {key: value.to(self.device) if isinstance(value, Tensor) else value for key, value in batch.items()}

    def _gathered(self, batches: Sequence[Sequence[int]]) -> Iterator[dict[str, Any]]:
        """Gathers in a thread, two ahead."""

        def pinned(indices: Sequence[int]) -> dict[str, Any]:
            raw = self.dataset.gather(indices)
            return {key: value.pin_memory() if isinstance(value, Tensor) else value for key, value in raw.items()}

        with ThreadPoolExecutor(1) as thread:
            ahead = deque(thread.submit(pinned, indices) for indices in batches[:2])
            for indices in [*batches[2:], None, None][: len(batches)]:
                yield ahead.popleft().result()
                if indices is not None:
                    ahead.append(thread.submit(pinned, indices))

    def _copied(self, raws: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Copies to the GPU on a stream of its own, one ahead, and finishes each batch there."""
        side, waiting = torch.cuda.Stream(self.device), None
        for raw in raws:
            with torch.cuda.stream(side):
                copy = {
                    key: value.to(self.device, non_blocking=True) if isinstance(value, Tensor) else value
                    for key, value in raw.items()
                }
                copied = (copy, side.record_event())
            if waiting is not None:
                yield self._finished(*waiting)
            waiting = copied
        if waiting is not None:
            yield self._finished(*waiting)

    def _finished(self, raw: dict[str, Any], is_there: torch.cuda.Event) -> dict[str, Any]:
        stream = torch.cuda.current_stream(self.device)
        stream.wait_event(is_there)
        for value in raw.values():
            if isinstance(value, Tensor):
                value.record_stream(stream)  # its memory is not given away before this stream has read it
        return self.dataset.finish(raw)


class _Batches:
    """The batches that a loader's processes are to fetch next."""

    batches: Sequence[Sequence[int]] = ()

    def __iter__(self) -> Iterator[Sequence[int]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class _Fetched(Dataset):
    """Lets torch's loader fetch a whole batch at a time."""

    def __init__(self, fetch: Callable[[Sequence[int]], dict[str, Any]]) -> None:
        self._fetch = fetch

    def __getitem__(self, indices: Sequence[int]) -> dict[str, Any]:
        return self._fetch(indices)


def _as_it_is(batch: dict[str, Any]) -> dict[str, Any]:
    return batch


def _silence(_worker: int) -> None:
    """A worker's errors reach the run through its queue; its threads would print tracebacks when another is killed."""
    sys.excepthook = lambda *_: None
