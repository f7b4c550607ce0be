"""Where a training slice is cut out: at its center, or about a random pixel of its foreground."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Foreground:
    """The foreground pixels of a slice as runs of neighbors, pixels being counted row by row.

    Args:
        ends: int32 (runs,), one more than each run's last pixel.
        counts: int32 (runs,), the pixels of each run and of those before it.
    """

    ends: np.ndarray
    counts: np.ndarray

    def pixel(self, share: float) -> int:
        """The foreground pixel that this share, in [0, 1), of all lies before."""
        number = int(share * self.counts[-1])
        run = int(np.searchsorted(self.counts, number, side="right"))
        return int(self.ends[run] - self.counts[run]) + number


def foreground_of(target: np.ndarray) -> Foreground | None:
    """Where a target (H, W) is above 0; None where it nowhere is."""
    edges = np.flatnonzero(np.diff(target.reshape(-1) > 0, prepend=False, append=False))
    if len(edges) == 0:
        return None
    return Foreground(edges[1::2].astype(np.int32), np.cumsum(edges[1::2] - edges[::2], dtype=np.int32))


def central_corners(lengths: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The first row and column, (B, 2), of the central window of `size` in slices of lengths (B, 2).

    Negative where a slice is smaller: padding is even, and an odd pixel more of it follows than precedes.
    """
    spare = lengths - np.array(size)
    return np.where(spare >= 0, spare // 2, -(-spare // 2))


def foreground_corners(
    lengths: np.ndarray, side: int, found: Sequence[Foreground | None], uniform: np.ndarray
) -> np.ndarray:
    """The first row and column, (B, 2), of a random square window with a center near foreground.

    The center lies within a quarter of `side` (per dimension) of a random foreground pixel if the slice has one and
    the border allows it, anywhere if it has none. A slice that is smaller than the window is padded evenly.

    uniform: (B, 3) in [0, 1): for the pixel, and for the window's row and column.
    """
    spare = np.maximum(lengths - side, 0)
    anywhere = (uniform[:, 1:] * (spare + 1)).astype(np.int64)
    has_any = np.array([each is not None for each in found])
    pixels = np.array([each.pixel(share) if each else 0 for each, share in zip(found, uniform[:, 0], strict=True)])
    reach = side // 4
    shift = (uniform[:, 1:] * (2 * reach + 1)).astype(np.int64) - reach
    center = np.stack(np.divmod(pixels, lengths[:, 1]), axis=1) + shift
    random = np.where(has_any[:, None], np.clip(center - side // 2, 0, spare), anywhere)
    return np.where(lengths < side, central_corners(lengths, (side, side)), random)
