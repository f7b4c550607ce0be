"""What is done to a predicted label volume: components kept or removed, in place and in little memory.

A component is what touches by faces, edges or corners. scipy.ndimage labels it within the class's bounding box in 32
bits; MONAI's transforms do the same with scikit-image in 64 bits over the whole volume (1.7 GB for 834 slices of
512x512).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy import ndimage

CHUNK_VOXELS = 1 << 22
FEW = 8
TOUCHING = np.ones((3, 3, 3), bool)


def count_voxels(array: np.ndarray, length: int) -> np.ndarray:
    """How often each of 0 .. length - 1 occurs in a contiguous volume.

    By parts: bincount makes a 64-bit copy of what it counts. Of few numbers it is faster to compare with each.
    """
    flat = array.reshape(-1)
    counts = np.zeros(length, np.int64)
    for start in range(0, len(flat), CHUNK_VOXELS):
        part = flat[start : start + CHUNK_VOXELS]
        if length <= FEW:
            counts += [np.count_nonzero(part == number) for number in range(length)]
        else:
            counts += np.bincount(part, minlength=length)
    return counts


def keep_largest(labels: np.ndarray, classes: Sequence[int]) -> None:
    """Keep the largest component of each of these classes; what is removed becomes background."""
    _filter(labels, classes, lambda sizes: np.arange(len(sizes)) == np.argmax(sizes))


def remove_small(labels: np.ndarray, classes: Sequence[int], minimum_voxels: float) -> None:
    """Remove the components of these classes that have fewer voxels; what is removed becomes background."""
    _filter(labels, classes, lambda sizes: sizes >= minimum_voxels)


def _filter(labels: np.ndarray, classes: Sequence[int], choose: Callable[[np.ndarray], np.ndarray]) -> None:
    """`choose` says from the sizes of a class's components which of them are kept."""
    boxes = ndimage.find_objects(labels)
    for number in classes:
        if number > len(boxes) or boxes[number - 1] is None:
            continue
        part = labels[boxes[number - 1]]
        components, count = ndimage.label(part == number, TOUCHING, np.int32)
        kept = np.concatenate([[True], choose(count_voxels(components, count + 1)[1:])])  # 0: the other classes
        for plane, numbers in zip(part, components, strict=True):
            plane[~kept[numbers]] = 0
