"""A folder of masks for a case, as TotalSegmentator leaves it: a NIfTI file for each class, named as the class is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from datasets.files import NIFTI_ENDINGS, ending, stem
from datasets.volumes.checks import AFFINE_TOLERANCE
from datasets.volumes.geometry import largest_shift
from datasets.volumes.nifti import Header, read_header
from datasets.volumes.reading import read_label
from datasets.volumes.scans import IMAGING, IN_CASE_FOLDER


def is_mask(file: Path) -> bool:
    """Whether a file of a case's folder can be a mask: the image may lie there as well."""
    return ending(file) in NIFTI_ENDINGS and stem(file) not in (IMAGING, *IN_CASE_FOLDER)


def classes_of_masks(folder: Path) -> dict[str, Path]:
    """The file of each class."""
    return {stem(file): file for file in sorted(folder.iterdir()) if is_mask(file)}


def read_masks(folder: Path, names: Sequence[str]) -> tuple[Iterator[np.ndarray], np.ndarray]:
    """Which voxels are of each of these classes, bool (i, j, k) one after another, and the affine of all files.

    Raises ValueError for a class without a file, a file of several labels or on another grid, and where two overlap.
    """
    files = classes_of_masks(folder)
    if missing := [name for name in names if name not in files]:
        raise ValueError(
            f"{folder}: has no {missing[0]}.nii.gz, as other cases have: make it, or leave it out of --only"
        )
    first = read_header(files[names[0]])
    return _masks([files[name] for name in names], first), first.affine


def _masks(files: Sequence[Path], first: Header) -> Iterator[np.ndarray]:
    shape, taken = first.shape[:3], np.zeros(first.shape[:3], np.uint16)
    for number, path in enumerate(files, start=1):
        header, label = read_header(path), read_label(path)
        if label.problem:
            raise ValueError(f"{path}: {label.problem}: {label.remedy}")
        if len(values := label.voxels.keys() - {0}) > 1:
            raise ValueError(f"{path}: holds label values {min(values)} to {max(values)}: a mask of one class has one")
        if header.shape[:3] != shape or largest_shift(first.affine, header.affine, shape) > AFFINE_TOLERANCE * max(
            shape
        ):
            raise ValueError(f"{path}: lies on another grid than {files[0].name}: make all masks of one image")
        mask = label.array.T > 0
        if (both := taken[mask]).any():
            raise ValueError(
                f"{path}: overlaps with {files[both.max() - 1].name} in {np.count_nonzero(both)} voxels: keep one of "
                "them with --only"
            )
        taken[mask] = number
        yield mask
