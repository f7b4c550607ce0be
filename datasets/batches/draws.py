"""Random numbers that depend on the seed, the epoch and the sample alone: the same on any device, in any process."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

KEY_BITS = 53  # what a float64 in [0, 1) holds
_WORD = 0xFFFFFFFF


class Draws:
    """Uniform numbers of the samples of a split, a row for each, drawn for a whole epoch at once.

    Index `i + n * samples` is sample i once more: its n-th repetition in an epoch has a row of its own, drawn when it
    is asked for, since where classes are evened out a rare one is repeated hundreds of times and the others are not.

    Args:
        samples: How many the split has.
        columns: How many numbers each needs.
        seed: Another seed gives other numbers.
    """

    def __init__(self, samples: int, columns: int, seed: int) -> None:
        self.samples, self.columns, self.seed = samples, columns, seed
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._drawn: dict[int, np.ndarray] = {}

    @property
    def epoch(self) -> int:
        """The epoch that is drawn; in memory shared with the loader's workers, persistent ones too."""
        return int(self._epoch)

    @epoch.setter
    def epoch(self, value: int) -> None:
        self._epoch.fill_(value)

    def __call__(self, indices: Sequence[int]) -> np.ndarray:
        """The rows of these indices, float64 (B, columns) in [0, 1)."""
        epoch, places = self.epoch, np.asarray(indices, np.int64)
        if epoch not in self._drawn:
            self._drawn = {epoch: self._generator(epoch, 0).random((self.samples, self.columns))}
        rows = self._drawn[epoch][places % self.samples]
        for row in np.flatnonzero(places >= self.samples):
            rows[row] = self._generator(epoch, int(places[row])).random(self.columns)
        return rows

    def _generator(self, epoch: int, stream: int) -> np.random.Generator:
        """Philox starts in microseconds. Stream 0 is of the whole split, any other that of an index above it."""
        return np.random.Generator(np.random.Philox(key=[self.seed, epoch << 32 | stream]))


def gaussian(keys: Tensor, pixels: int) -> Tensor:
    """Standard normal numbers, float64 (B, pixels): a hash of key and pixel, then Box and Muller's transform.

    keys: int64 (B,), at most `KEY_BITS` bits. The hash takes whole numbers alone, so every device gives the same noise
    but for the rounding of logarithm and cosine in float64.
    """
    half = -(-pixels // 2)
    pixel = torch.arange(2 * half, device=keys.device)
    first = _mixed(_mixed(keys >> 32) ^ keys & _WORD)
    second = _mixed(first ^ _WORD)  # without it two keys may have the same numbers in another order
    hashed = _mixed(_mixed(pixel ^ first[:, None]) ^ second[:, None])
    uniform = (hashed.double() + 0.5) * 2.0**-32
    radius = uniform[:, :half].log_().mul_(-2).sqrt_()
    angle = uniform[:, half:].mul_(2 * torch.pi)
    return torch.cat((angle.cos() * radius, angle.sin() * radius), dim=1)[:, :pixels]


def _mixed(word: Tensor) -> Tensor:
    """A hash of 32 bits held in int64, in which no product overflows."""
    word = (word ^ (word >> 16)) * 0x21F0AAAD & _WORD
    word = (word ^ (word >> 15)) * 0x735A2D97 & _WORD
    return word ^ (word >> 15)
