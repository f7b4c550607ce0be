"""Cases read by threads before their turn and written by threads after it, with bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Opened = TypeVar("Opened")
Result = TypeVar("Result")


def run_ahead(
    items: Iterable[Item],
    open_item: Callable[[Item], tuple[Opened, int]],
    read: Callable[[Opened], None],
    work: Callable[[Opened], None],
    finish: Callable[[Opened], Result],
    jobs: int,
    budget: int,
) -> Iterator[tuple[Item, Result | Exception]]:
    """Take every item through the four steps and yield it with what `finish` returns, or with the first exception.

    open_item: returns the opened item and the bytes it takes until it is finished; in this thread, as is `work`, one
    at a time. read, finish: in `jobs` threads each, for up to `jobs` items ahead and behind. budget: an item is read
    ahead only while all that are underway take no more bytes together; one that takes more runs alone.
    """
    waiting, reading, finishing = deque(items), deque(), deque()
    opened: tuple[Opened, int] | None = None  # the first that waits, once it is opened
    held = 0
    readers, finishers = ThreadPoolExecutor(jobs), ThreadPoolExecutor(jobs)

    def admit() -> Iterator[tuple[Item, Exception]]:
        """Start to read as many items as there are threads and bytes for; yields those that cannot be opened."""
        nonlocal opened, held
        while waiting and len(reading) < jobs:
            try:
                opened = opened or open_item(waiting[0])
            except Exception as error:
                yield waiting.popleft(), error
                continue
            if held and held + opened[1] > budget:
                return
            held += opened[1]
            reading.append((waiting.popleft(), *opened, readers.submit(read, opened[0])))
            opened = None

    try:
        while True:
            yield from admit()
            if reading:
                item, current, size, future = reading.popleft()
                try:
                    future.result()
                    yield from admit()
                    work(current)
                except Exception as error:
                    held -= size
                    yield item, error
                else:
                    finishing.append((item, size, finishers.submit(finish, current)))
                current = future = None
            elif not finishing:
                return
            # the oldest is waited for when too many are behind, or nothing can be read before it is written
            while finishing and (len(finishing) > jobs or not reading or finishing[0][2].done()):
                item, size, future = finishing.popleft()
                try:
                    result = future.result()
                except Exception as error:
                    result = error
                held -= size
                yield item, result
    finally:
        for pool in (readers, finishers):
            pool.shutdown(wait=True, cancel_futures=True)
