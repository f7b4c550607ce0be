"""Who may write a slice store at once: one run, or the shards of one number of shards, each once."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from datasets.files import alone_in, holding


def read_shard(which: str) -> tuple[int, int]:
    """Read I/N with 0 <= I < N."""
    match = re.fullmatch(r"(\d+)/(\d+)", which)
    index, count = (int(match[1]), int(match[2])) if match else (0, 0)
    if index >= count:
        raise ValueError(f"--shard {which}: give I/N with 0 <= I < N, such as 0/4")
    return index, count


@contextmanager
def hold_store(root: Path, index: int, count: int) -> Iterator[None]:
    """Hold a store for shard `index` of `count`, beside other shards of this count; one shard is the whole.

    Raises ValueError while another run holds what this one would write.
    """
    with alone_in(root, shared=count > 1):
        if count == 1:
            yield
            return
        with holding(root / f".shard-{index}-of-{count}", wait=False) as held:
            if not held:
                raise ValueError(
                    f"{root}: --shard {index}/{count} is being written by another command: wait until it has ended"
                )
            for other in sorted(root.glob(".shard-*-of-*")):
                if other.name.endswith(f"-of-{count}"):
                    continue
                with holding(other, wait=False) as free:  # left by a killed run, unless it is held
                    if not free:
                        raise ValueError(
                            f"{root}: shards of another number ({other.name[1:]}) are being sliced into it: wait "
                            "until they have ended, or take part with the same N"
                        )
            yield


@contextmanager
def hold_index(root: Path) -> Iterator[None]:
    """Wait for other shards that list the cases, and hold the index while this one does."""
    with holding(root / ".index", wait=True):
        yield


def remove_leftovers(root: Path) -> None:
    """Remove the files of killed shards; the store is held by this run alone."""
    for file in root.glob(".shard-*-of-*"):
        with holding(file, wait=False):
            pass
