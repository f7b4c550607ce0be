"""Training batches in an order that depends on the seed and the epoch alone."""

from __future__ import annotations

import sys
from collections import Counter

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from utils.recipe.contracts import Samples


def epoch_batches(
    size: int,
    batch_size: int,
    seed: int,
    epoch: int,
    rank: int = 0,
    world: int = 1,
    weights: Tensor | None = None,
) -> list[list[int]]:
    """The sample indices of every step of one epoch for one process.

    `batch_size` counts the images of all processes together, so the steps do not depend on how many there are. A last
    batch that is not full is dropped (batch normalization needs more than one image), unless it is the only one.
    With `weights` (one a sample) an epoch draws as many samples, in proportion to them and with replacement; the n-th
    repetition of sample i is index i + n * size, so that a dataset can augment it otherwise.
    """
    if batch_size % world:
        raise ValueError(f"training.batch_size {batch_size} is not a multiple of the {world} processes")
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    if weights is None:
        order = torch.randperm(size, generator=generator).tolist()
    else:
        drawn: Counter[int] = Counter()
        order = []
        for index in torch.multinomial(weights, size, replacement=True, generator=generator).tolist():
            order.append(index + size * drawn[index])
            drawn[index] += 1
    batches = [order[start : start + batch_size] for start in range(0, size - batch_size + 1, batch_size)] or [order]
    return [batch[rank::world] for batch in batches]


def load_batches(dataset: Samples, batches: list[list[int]], workers: int, pin_memory: bool = False) -> DataLoader:
    """Loads `batches` in their order. Its own generator keeps the global one as it is, for an exact resume."""
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        pin_memory=pin_memory,
        worker_init_fn=_silence,
        generator=torch.Generator(),
    )


def _silence(_worker: int) -> None:
    """A worker's errors reach the run through its queue; its threads would print tracebacks when another is killed."""
    sys.excepthook = lambda *_: None
