"""A folder of masks for a case, as TotalSegmentator leaves it: a NIfTI file for each class, named as the class is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datasets.files import NIFTI_ENDINGS, ending, stem
from datasets.volumes.checks import AFFINE_TOLERANCE
from datasets.volumes.geometry import largest_shift
from datasets.volumes.nifti import read_header
from datasets.volumes.reading import read_label
from datasets.volumes.scans import IMAGING, IN_CASE_FOLDER


def is_mask(file: Path) -> bool:
    """Whether a file of a case's folder can be a mask: the image may lie there as well."""
    return ending(file) in NIFTI_ENDINGS and stem(file) not in (IMAGING, *IN_CASE_FOLDER)


def classes_of_masks(folder: Path) -> dict[str, Path]:
    """The file of each class."""
    return {stem(file): file for file in sorted(folder.iterdir()) if is_mask(file)}


def read_masks(folder: Path, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """1 within each of these classes, float32 (K, i, j, k) in the order of their files, and the affine of all.

    Raises ValueError for a class without a file, a file of several labels or on another grid, and where two overlap.
    """
    files, masks = classes_of_masks(folder), []
    first, taken = None, None
    for number, name in enumerate(names, start=1):
        if (path := files.get(name)) is None:
            raise ValueError(f"{folder}: has no {name}.nii.gz, as other cases have: make it, or leave it out of --only")
        header, label = read_header(path), read_label(path)
        if label.problem:
            raise ValueError(f"{path}: {label.problem}: {label.remedy}")
        if len(values := label.voxels.keys() - {0}) > 1:
            raise ValueError(f"{path}: holds label values {min(values)} to {max(values)}: a mask of one class has one")
        first, mask = first or header, label.array.T > 0
        shape = first.shape[:3]
        if header.shape[:3] != shape or largest_shift(first.affine, header.affine, shape) > AFFINE_TOLERANCE * max(
            shape
        ):
            raise ValueError(f"{path}: lies on another grid than {files[names[0]].name}: make all masks of one image")
        taken = np.zeros(shape, np.uint16) if taken is None else taken
        if (both := taken[mask]).any():
            other = files[names[both.max() - 1]].name
            raise ValueError(
                f"{path}: overlaps with {other} in {np.count_nonzero(both)} voxels: keep one of them with --only"
            )
        taken[mask] = number
        masks.append(mask)
    return np.stack(masks).astype(np.float32), first.affine
