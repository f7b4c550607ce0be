"""Which samples each step of an epoch takes: by the seed and the epoch alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from utils.recipe.contracts import Samples


@dataclass(frozen=True, kw_only=True)
class Order:
    """Which samples every step takes; a last batch that is not full is dropped, unless it is the only one.

    Batch normalization needs more than one image, and all steps have one shape.

    Args:
        size: Samples there are.
        batch_size: Images of a step, those of all processes and parts together: the steps do not depend on how many
            there are.
        seed: With the number of the epoch it decides the order.
        rank: This process, of `world`.
        parts: How many forwards a step has in each process.
        weights: One a sample: an epoch draws `size` samples in proportion to them, with replacement.
        labeled: One a sample: half of every part is labeled (rounded up), and these come first. Each group is gone
            through as a whole before a sample comes again.
    """

    size: int
    batch_size: int
    seed: int
    rank: int = 0
    world: int = 1
    parts: int = 1
    weights: Tensor | None = None
    labeled: Tensor | None = None

    def __post_init__(self) -> None:
        if self.batch_size % (self.world * self.parts):
            of = f"{self.world} processes" + (f" times training.accumulate {self.parts}" if self.parts > 1 else "")
            raise ValueError(f"training.batch_size {self.batch_size} is not a multiple of the {of}")
        if self.size < self.world * self.parts <= self.batch_size:
            raise ValueError(
                f"{self.size} training samples are too few for {self.world} processes with training.accumulate "
                f"{self.parts}: each part of a batch needs one"
            )
        if self.labeled is not None and len(set(self.labeled.tolist())) < 2:
            known = "labeled" if not self.labeled.any() else "unlabeled"
            raise ValueError(
                f"no {known} training sample is left: give another data.labeled, or keep more background "
                "(data.thin_background)"
            )

    @property
    def steps(self) -> int:
        """The number of steps of an epoch."""
        return max(self.size // self.batch_size, 1)

    def epoch(self, number: int) -> list[list[int]]:
        """The sample indices of every step of an epoch for this process, one part after the other.

        The n-th repetition of sample i is index i + n * size, so that a dataset can augment it otherwise.
        """
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        seen: Counter[int] = Counter()
        order = []
        for sample in self._drawn(generator):
            order.append(sample + self.size * seen[sample])
            seen[sample] += 1
        sizes = self._parts()
        first, end = (sum(sizes[: rank * self.parts]) for rank in (self.rank, self.rank + 1))
        return [order[start + first : start + end] for start in range(0, self.steps * sum(sizes), sum(sizes))]

    def _parts(self) -> list[int]:
        """The images in each part of a step, over all processes."""
        every = self.world * self.parts
        return [len(range(part, min(self.batch_size, self.size), every)) for part in range(every)]

    def _drawn(self, generator: torch.Generator) -> list[int]:
        if self.weights is not None:
            return torch.multinomial(self.weights, self.size, replacement=True, generator=generator).tolist()
        if self.labeled is None:
            return torch.randperm(self.size, generator=generator).tolist()
        known, unknown = (_endless(rows.nonzero().flatten(), generator) for rows in (self.labeled, ~self.labeled))
        drawn = []
        for size in self._parts() * self.steps:
            drawn += islice(known, labeled_of(size))
            drawn += islice(unknown, size - labeled_of(size))
        return drawn


def _endless(members: Tensor, generator: torch.Generator) -> Iterator[int]:
    """The members again and again, each time all of them in another order."""
    while True:
        yield from members[torch.randperm(len(members), generator=generator)].tolist()


def labeled_of(count: int) -> int:
    """How many images of a partly labeled batch are labeled, its first ones: half, rounded up."""
    return (count + 1) // 2


def order_of(dataset: Samples, batch_size: int, seed: int, rank: int = 0, world: int = 1, parts: int = 1) -> Order:
    """The order in which a dataset is trained on."""
    return Order(
        size=len(dataset),
        batch_size=batch_size,
        seed=seed,
        rank=rank,
        world=world,
        parts=parts,
        weights=dataset.sampling_weights,
        labeled=dataset.labeled,
    )
