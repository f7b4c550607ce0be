"""Lesions of a label volume, and which of them a prediction detects.

A lesion is a connected component; voxels touch by face, edge or corner (26 neighbors). A predicted lesion detects a
target lesion when their intersection over union reaches a threshold; pairs are matched one to one, the highest first,
as panoptica does (Kofler et al., arXiv 2312.02608). The threshold is 0.1 unless asked, as nnDetection has it in 3D
(Baumgartner et al., MICCAI 2021): to find a lesion is not yet to outline it. Of a lesion predicted in two pieces one
piece detects it and the other is false; of two lesions predicted as one, one is missed. BraTS dilates the target's
lesions before it separates and matches them, LiTS merges those that one prediction spans: neither is done here.

Components are found among runs of voxels, not voxels: an 800x512x512 case needs megabytes and no second volume.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

SLAB_VOXELS = 1 << 24


@dataclass(frozen=True)
class Runs:
    """The voxels of a class as runs along the last axis, in order: keys of the first voxel and of the one past the end.

    Keys number the voxels of the volume with room after every row and plane, so that no run touches one it should not.
    `row` and `plane` are the steps of the key to the next row and plane.
    """

    starts: NDArray[np.int64]
    stops: NDArray[np.int64]
    row: int
    plane: int

    @property
    def lengths(self) -> NDArray[np.int64]:
        return self.stops - self.starts

    @property
    def voxels(self) -> int:
        return int(self.lengths.sum())


def runs_of(volume: NDArray[np.uint8], values: Sequence[int]) -> Runs:
    """The voxels of a volume (D, H, W) that have one of these values."""
    depth, height, width = volume.shape
    row = width + 2
    plane = (height + 2) * row
    starts, stops = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    step = max(1, SLAB_VOXELS // (height * width))
    for first in range(0, depth, step):
        slab = volume[first : first + step]
        padded = np.zeros((len(slab), height, row), np.bool_)
        padded[..., 1:-1] = reduce(np.logical_or, (slab == value for value in values))
        flat = padded.reshape(-1)
        changes = np.flatnonzero(flat[1:] != flat[:-1])
        z, rest = np.divmod(changes, height * row)
        keys = (z + first) * plane + rest
        starts.append(keys[::2])
        stops.append(keys[1::2])
    return Runs(np.concatenate(starts), np.concatenate(stops), row, plane)


def components(runs: Runs) -> NDArray[np.int64]:
    """The number of the 26-connected component of each run, counted from 0."""
    pairs = [
        _touching(runs.starts + step, runs.stops + step, runs, reach=1)
        for step in (runs.row, runs.plane - runs.row, runs.plane, runs.plane + runs.row)
    ]
    one, other = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    size = len(runs.starts)
    graph = coo_array((np.ones(len(one), np.bool_), (one, other)), shape=(size, size))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def _touching(
    starts: NDArray[np.int64], stops: NDArray[np.int64], runs: Runs, reach: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs (index, index in `runs`) of runs that share a voxel (reach 0), or lie next to one another (reach 1)."""
    low = np.searchsorted(runs.stops, starts - reach, side="right")
    high = np.searchsorted(runs.starts, stops + reach, side="left")
    counts = np.maximum(high - low, 0)
    one = np.repeat(np.arange(len(starts)), counts)
    within = np.arange(len(one)) - np.repeat(np.cumsum(counts) - counts, counts)
    return one, np.repeat(low, counts) + within


def intersection(one: Runs, other: Runs) -> int:
    """Voxels in both, of two classes of volumes of one shape."""
    first, second = _touching(one.starts, one.stops, other, reach=0)
    return int(_shared(one, other, first, second).sum())


def _shared(one: Runs, other: Runs, first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.minimum(one.stops[first], other.stops[second]) - np.maximum(one.starts[first], other.starts[second])


@dataclass(frozen=True)
class Detection:
    """Lesions of a case: voxels of each in target and prediction, and the matched pairs (target, prediction, IoU)."""

    target_voxels: tuple[int, ...]
    prediction_voxels: tuple[int, ...]
    matches: tuple[tuple[int, int, float], ...]

    @property
    def missed(self) -> int:
        return len(self.target_voxels) - len(self.matches)

    @property
    def false(self) -> int:
        return len(self.prediction_voxels) - len(self.matches)

    @property
    def f1(self) -> float:
        """2 detected / (lesions of target + lesions of prediction); 1 where neither has any."""
        lesions = len(self.target_voxels) + len(self.prediction_voxels)
        return 2 * len(self.matches) / lesions if lesions else 1.0


def detect(prediction: Runs, target: Runs, iou: float = 0.1, smallest: float = 0.0) -> Detection:
    """Match the lesions of a prediction with those of the target.

    iou: at least this much overlap is a detection; with 0 any shared voxel is. smallest: components of fewer voxels are
    no lesions, in either.
    """
    (ours, our_sizes), (theirs, their_sizes) = (_lesions(runs, smallest) for runs in (prediction, target))
    first, second = _touching(prediction.starts, prediction.stops, target, reach=0)
    shared = _shared(prediction, target, first, second)
    both = (ours[first] >= 0) & (theirs[second] >= 0)
    keys, place = np.unique(ours[first][both] * (len(their_sizes) + 1) + theirs[second][both], return_inverse=True)
    overlaps = np.bincount(place, weights=shared[both], minlength=len(keys))
    own, other = np.divmod(keys, len(their_sizes) + 1)
    ious = overlaps / (our_sizes[own] + their_sizes[other] - overlaps)
    matches, taken = [], (set(), set())
    for pair in np.lexsort((own, other, -ious)):
        where = int(other[pair]), int(own[pair])
        if ious[pair] >= iou and where[0] not in taken[0] and where[1] not in taken[1]:
            matches.append((*where, float(ious[pair])))
            taken[0].add(where[0])
            taken[1].add(where[1])
    return Detection(_plain(their_sizes), _plain(our_sizes), tuple(sorted(matches)))


def _lesions(runs: Runs, smallest: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The lesion of each run (-1: of none, its component is too small), and the voxels of each lesion."""
    component = components(runs)
    sizes = np.bincount(component, weights=runs.lengths).astype(np.int64)
    kept = sizes >= smallest
    number = np.where(kept, np.cumsum(kept) - 1, -1)
    return number[component], sizes[kept]


def _plain(sizes: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(size) for size in sizes)
