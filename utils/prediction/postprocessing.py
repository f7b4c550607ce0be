"""What is done to a predicted label volume: components kept or removed, in place and in little memory.

Components are found within the class's bounding box; MONAI's transforms do so with scikit-image in 64 bits over the
whole volume (1.7 GB for 834 slices of 512x512).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from utils.evaluation.volumes.components import components


def keep_largest(labels: np.ndarray, classes: Sequence[int]) -> None:
    """Keep the largest component of each of these classes; what is removed becomes background."""
    _filter(labels, classes, lambda sizes: np.arange(len(sizes)) == np.argmax(sizes))


def remove_small(labels: np.ndarray, classes: Sequence[int], minimum_voxels: float) -> None:
    """Remove the components of these classes that have fewer voxels; what is removed becomes background."""
    _filter(labels, classes, lambda sizes: sizes >= minimum_voxels)


def _filter(labels: np.ndarray, classes: Sequence[int], choose: Callable[[np.ndarray], np.ndarray]) -> None:
    """`choose` says from the sizes of a class's components which of them are kept."""
    from scipy import ndimage  # it takes longer to import than a small volume to predict

    boxes = ndimage.find_objects(labels)
    for number in classes:
        if number > len(boxes) or boxes[number - 1] is None:
            continue
        part = labels[boxes[number - 1]]
        numbers, sizes = components(part == number)
        kept = np.concatenate([[True], choose(sizes)])  # 0: the other classes
        for plane, component in zip(part, numbers, strict=True):
            plane[~kept[component]] = 0
