"""What torch raises while a run works, as one line with the key of the recipe to change."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from utils.recipe.schema import Recipe

NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")


@contextmanager
def explained(recipe: Recipe) -> Iterator[None]:
    """Turns errors that a recipe's values lead to into a ValueError that names the key; passes on all others."""
    try:
        yield
    except (RuntimeError, ValueError, OSError, MemoryError) as error:
        if (line := _explanation(error, recipe)) is None:
            raise
        raise ValueError(line) from error


def _explanation(error: Exception, recipe: Recipe) -> str | None:
    message, settings = str(error), recipe.training
    unexplained = not isinstance(error, ValueError) and any(words in message for words in NO_MEMORY)
    if unexplained or isinstance(error, MemoryError | torch.OutOfMemoryError):
        where = "the GPU" if isinstance(error, torch.OutOfMemoryError) else "this machine"
        return (
            f"out of memory on {where}: lower training.batch_size (now {settings.batch_size}), the size of the images "
            "(data.crop or data.image_size), or the network's width"
        )
    if message.startswith("Caught ") and "Original Traceback" in message:  # a loader's process passes on its traceback
        return re.sub(r"^[\w.]+(Error|Exception): ", "", message.strip().splitlines()[-1])
    if "shared memory" in message or "unable to write to file </torch_" in message:
        return (
            f"the processes that load images need more shared memory (/dev/shm): lower training.workers (now "
            f"{settings.workers}; 0 needs none), or give the container more (docker --shm-size)"
        )
    if "DataLoader worker" in message:
        return (
            f"a process that loads images was killed ({_first_line(message)}); most often memory ran out: lower "
            f"training.workers (now {settings.workers}) or data.cache_mb"
        )
    if "Expected more than 1 value per channel" in message:
        return (
            f"training.batch_size {settings.batch_size}: network {recipe.network['name']} normalizes over a batch, "
            "which needs at least two images (and as many to train on): raise it"
        )
    return None


def _first_line(message: str) -> str:
    return re.sub(r"\s+", " ", message.strip().splitlines()[0])
