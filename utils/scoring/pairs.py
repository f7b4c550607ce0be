"""Predicted label files and the label files they belong to, matched by case and compared voxel grid by voxel grid."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datasets.checks import AFFINE_TOLERANCE
from datasets.findings import Finding
from datasets.nifti import Header, UnreadableVolumeError, read_header
from datasets.volumes import read_label
from utils.memory import memory_limit

IMAGES = re.compile(r"imaging|.*_4d|.*_0000")  # KiTS, ACDC, nnU-Net
IMAGES_BESIDE_LABELS = re.compile(r"volume-\d+|patient\d+_frame\d+")  # LiTS, ACDC; a prediction may be named so
CLASS_NAMES = {
    r"case_\d{5}": {1: "kidney", 2: "tumor", 3: "cyst"},
    r"volume-\d+": {1: "liver", 2: "tumor"},
    r"patient\d+_frame\d+": {1: "right ventricle", 2: "myocardium", 3: "left ventricle"},
}


@dataclass(frozen=True)
class Pair:
    """A predicted label file and its target, on one grid. spacing: mm, as the axes of the arrays that `read` returns.

    spacing_lost: the header says 1 x 1 x 1 mm and an identity affine, as LiTS volumes 28 to 47 do: mm may be voxels.
    """

    case: str
    patient: str
    prediction: Path
    label: Path
    spacing: tuple[float, float, float]
    spacing_lost: bool

    def read(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8], set[int]]:
        """Predicted and target labels in file order, and the values above 0 in them.

        Raises ValueError naming the file that cannot be used.
        """
        labels = []
        for path in (self.prediction, self.label):
            label = read_label(path)
            if label.problem:
                raise ValueError(f"{path}: {label.problem}: write it again with whole label values")
            labels.append(label)
        return labels[0].array, labels[1].array, {*labels[0].voxels, *labels[1].voxels} - {0}


def find_pairs(predictions: Path, labels: Path) -> tuple[list[Pair], list[Finding], dict[str, list[str]]]:
    """The pairs that can be scored, what is wrong with the others, and the cases that only one side has.

    predictions, labels: folders, searched whole, or a file each. Files are matched by case: `case_00000.nii.gz`,
    `prediction_00000.nii.gz` and `case_00000/segmentation.nii.gz` are one (KiTS), as are `volume-7` and
    `segmentation-7` (LiTS), `patient001_frame01` with and without `_gt` (ACDC), and files of one name (MSD, nnU-Net).
    Raises ValueError when nothing is there or nothing matches.
    """
    ours, theirs = (_files(folder, what) for folder, what in ((predictions, "predictions"), (labels, "labels")))
    if predictions.is_file() and labels.is_file():
        ours = {case: next(iter(ours.values())) for case in theirs}
    pairs, findings = [], []
    for case in sorted(ours.keys() & theirs.keys(), key=_natural):
        for files in (ours[case], theirs[case]):
            findings += [Finding(path, f"is case {case}, as is {files[0]}", "keep one of them") for path in files[1:]]
        if len(ours[case]) == len(theirs[case]) == 1:
            found = _pair(case, ours[case][0], theirs[case][0])
            (pairs if isinstance(found, Pair) else findings).append(found)
    if not pairs and not findings:
        raise ValueError(
            f"no case of {predictions} ({_some(ours)}) is in {labels} ({_some(theirs)}): give the files the same names"
        )
    unmatched = {"predictions": ours.keys() - theirs.keys(), "labels": theirs.keys() - ours.keys()}
    return pairs, findings, {what: sorted(cases, key=_natural) for what, cases in unmatched.items()}


def _files(root: Path, what: str) -> dict[str, list[Path]]:
    """NIfTI files by case; an image beside a label file of the same case is not a label."""
    if root.is_file():
        return {case_name(root): [root]}
    if not root.is_dir():
        raise ValueError(f"--{what} {root}: no such file or folder")
    home = root / "labelsTr" if (root / "labelsTr").is_dir() else root
    files: dict[str, list[Path]] = {}
    for path in sorted(home.rglob("*")):
        if re.search(r"^[^.].*\.nii(\.gz)?$", path.name) and not IMAGES.fullmatch(_stem(path)):
            files.setdefault(case_name(path), []).append(path)
    if not files:
        raise ValueError(f"--{what} {root}: holds no .nii or .nii.gz label file")
    for case, paths in files.items():
        labels = [path for path in paths if not IMAGES_BESIDE_LABELS.fullmatch(_stem(path))]
        files[case] = labels or paths
    return files


def _stem(path: Path) -> str:
    return re.sub(r"\.nii(\.gz)?$", "", path.name)


def case_name(path: Path) -> str:
    """The case a label file belongs to, by the naming of the published layouts."""
    stem = _stem(path)
    if stem in ("segmentation", "prediction", "aggregated_MAJ_seg"):
        return path.parent.name
    if match := re.fullmatch(r"(?:test-)?(?:volume|segmentation)-(\d+)", stem):
        return f"volume-{match[1]}"
    if match := re.fullmatch(r"prediction_(\d{5})", stem):
        return f"case_{match[1]}"
    return stem.removesuffix("_gt")


def _natural(name: str) -> list[tuple[str, int]]:
    return [(text, int(number or 0)) for text, number in re.findall(r"(\D*)(\d*)", name)]


def _some(names: Mapping[str, object]) -> str:
    listed = sorted(names, key=_natural)[:2]
    return ", ".join(listed) + (f" and {len(names) - 2} more" if len(names) > 2 else "")


def _pair(case: str, prediction: Path, label: Path) -> Pair | Finding:
    try:
        ours, theirs = read_header(prediction), read_header(label)
    except UnreadableVolumeError as error:
        return Finding(error.path, error.what, error.remedy)
    for path, header in ((prediction, ours), (label, theirs)):
        if len(header.shape) != 3:
            return Finding(path, f"shape {header.shape}", "give one label value per voxel in three dimensions")
        if not (np.isfinite(header.spacing).all() and min(header.spacing) > 0):
            return Finding(path, f"spacing {header.spacing} mm", "write it again with its spacing")
    if ours.shape != theirs.shape:
        return Finding(prediction, f"shape {ours.shape} differs from {theirs.shape} of {label}", "predict on its grid")
    if 2 * np.prod(ours.shape, dtype=float) > memory_limit():
        what = f"takes {2 * np.prod(ours.shape, dtype=float) / 1e9:.1f} GB of memory with its label"
        return Finding(prediction, what, f"no more than {memory_limit() / 1e9:.1f} GB are used: score it elsewhere")
    for path, header in ((prediction, ours), (label, theirs)):
        if not _is_invertible(header.affine):
            return Finding(path, "affine is singular or not finite", "write it again with its affine")
    shift = _largest_shift(ours, theirs)
    if not shift <= AFFINE_TOLERANCE * max(theirs.shape):  # also where it is not a number
        what = f"affine differs from that of {label} (up to {shift:.3g} voxels apart)"
        return Finding(prediction, what, "predict on its grid, or give it its affine")
    lost = spacing_is_lost(theirs.spacing, theirs.affine)
    patient = re.sub(r"^(patient\d+)_frame\d+$", r"\1", case)
    return Pair(case, patient, prediction, label, theirs.spacing[::-1], lost)


def spacing_is_lost(spacing: Sequence[float], affine: ArrayLike) -> bool:
    """Whether a header says nothing but 1 x 1 x 1 mm at the origin: then its mm may be voxels."""
    return tuple(spacing) == (1.0, 1.0, 1.0) and np.array_equal(np.abs(affine), np.eye(4))


def _is_invertible(affine: NDArray[np.float64]) -> bool:
    with np.errstate(all="ignore"):
        return bool(np.isfinite(affine).all() and 1e-9 <= abs(np.linalg.det(affine)) < np.inf)


def _largest_shift(prediction: Header, label: Header) -> float:
    """The largest distance between the same corner of both grids, in voxels of the label."""
    corners = np.array(np.meshgrid(*[(0, size - 1) for size in label.shape], [1])).reshape(4, -1)
    with np.errstate(all="ignore"):
        return float(np.abs((np.linalg.inv(label.affine) @ prediction.affine @ corners - corners)[:3]).max())


def known_classes(labels: Path, cases: list[str]) -> dict[int, str]:
    """Names of label values: of a dataset.json (MSD, nnU-Net) by the labels, else of the layout the cases are named in.

    Empty where nothing tells.
    """
    for folder in (labels, labels.parent):
        if (folder / "dataset.json").is_file():
            try:
                named = json.loads((folder / "dataset.json").read_text())["labels"].items()
                pairs = [(key, value) if str(key).isdigit() else (value, key) for key, value in named]
                classes = {int(value): str(name) for value, name in pairs if int(value) > 0}
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
                break  # another kind of dataset.json, such as a slice store's
            if len(set(classes.values())) == len(classes):
                return classes
            break
    for pattern, names in CLASS_NAMES.items():
        if cases and all(re.fullmatch(pattern, case) for case in cases):
            return names
    return {}
