"""Lesions of a label volume, and which of them a prediction detects.

A lesion is a connected component; voxels touch by face, edge or corner (26 neighbors). A predicted lesion detects a
target lesion when their intersection over union reaches a threshold; pairs are matched one to one, the highest first,
as panoptica does (Kofler et al., arXiv 2312.02608). The threshold is 0.1 unless another is given, as nnDetection has it
in 3D (Baumgartner et al., MICCAI 2021): to find a lesion is not yet to outline it. If a lesion is predicted in two
pieces, one piece detects it and the other is false; if two lesions are predicted as one, one of them is missed. BraTS
dilates the target's lesions before it separates and matches them, LiTS merges those that one prediction spans; neither
is done here.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from utils.evaluation.volumes.components import components


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


def detect(
    prediction: NDArray[np.bool_], target: NDArray[np.bool_], iou: float = 0.1, smallest: float = 0.0
) -> Detection:
    """Match the lesions of a prediction with those of the target, two masks of one shape.

    iou: at least this much overlap is a detection; with 0 any shared voxel is. smallest: components of fewer voxels
    count as lesions in neither mask.
    """
    from scipy.sparse import coo_array

    prediction, target = _without_gaps(prediction, target)
    shared = prediction & target
    (ours, our_sizes), (theirs, their_sizes) = (_lesions(mask, shared, smallest) for mask in (prediction, target))
    both = (ours >= 0) & (theirs >= 0)
    overlaps = coo_array(
        (np.ones(np.count_nonzero(both), np.int64), (ours[both], theirs[both])), (len(our_sizes), len(their_sizes))
    )
    overlaps.sum_duplicates()
    own, other = overlaps.coords
    ious = overlaps.data / (our_sizes[own] + their_sizes[other] - overlaps.data)
    matches, taken = [], (set(), set())
    for pair in np.lexsort((own, other, -ious)):
        where = int(other[pair]), int(own[pair])
        if ious[pair] >= iou and where[0] not in taken[0] and where[1] not in taken[1]:
            matches.append((*where, float(ious[pair])))
            taken[0].add(where[0])
            taken[1].add(where[1])
    return Detection(tuple(their_sizes.tolist()), tuple(our_sizes.tolist()), tuple(sorted(matches)))


def _without_gaps(*masks: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """The masks with each run of empty planes cut to one plane, along every axis: what did not touch still does not.

    A voxel in a far corner would otherwise make the volume to label several times as large.
    """
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        filled = np.logical_or.reduce([mask.any(others) for mask in masks])
        filled[1:] |= filled[:-1].copy()
        filled[0] = True  # one plane at least
        masks = [mask.compress(filled, axis) for mask in masks]
    return masks


def _lesions(
    mask: NDArray[np.bool_], places: NDArray[np.bool_], smallest: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The lesion at each of these places (-1 where its component is too small), and the voxels of each lesion."""
    numbers, sizes = components(mask)
    kept = sizes >= smallest
    lesion = np.concatenate([[-1], np.where(kept, np.cumsum(kept) - 1, -1)])
    return lesion[numbers[places]], sizes[kept]
