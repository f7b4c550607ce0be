"""Random numbers that depend on the seed, the epoch and the sample alone: the same on any device, in any process."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

KEY_BITS = 53  # what a float64 in [0, 1) holds


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

    keys: int64 (B,), from 0 to 2 ** `KEY_BITS`. The hash takes whole numbers alone, so every device gives the same
    noise but for the rounding of logarithm and cosine in float64.
    """
    half = -(-pixels // 2)
    first = _mixed((keys >> 31).int(), (keys & 0x7FFFFFFF).int())
    second = _mixed(~first, first)  # without it two keys may have the same numbers in another order
    pixel = torch.arange(2 * half, device=keys.device, dtype=torch.int32)
    uniform = _mixed(pixel ^ first[:, None], second[:, None]).double().add_(2.0**31 + 0.5).mul_(2.0**-32)
    radius = uniform[:, :half].log().mul_(-2).sqrt_()
    angle = uniform[:, half:].mul(2 * torch.pi)
    noise = torch.empty_like(uniform)
    torch.mul(radius, angle.cos(), out=noise[:, :half])
    torch.mul(radius, angle.sin_(), out=noise[:, half:])
    return noise[:, :pixels]


def _mixed(word: Tensor, other: Tensor) -> Tensor:
    """A hash of two words of 32 bits, int32, which wrap around; a shift to the right loses the copies of the sign."""
    word = (word ^ (word >> 16).bitwise_and_(0xFFFF)).mul_(0x21F0AAAD).bitwise_xor_(other)
    word.bitwise_xor_((word >> 15).bitwise_and_(0x1FFFF)).mul_(0x735A2D97)
    return word.bitwise_xor_((word >> 15).bitwise_and_(0x1FFFF))
