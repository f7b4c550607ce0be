"""Predicted label files and the label files they belong to, matched by case and compared voxel grid by voxel grid."""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datasets.files import stem
from datasets.findings import Finding, listed
from datasets.volumes.checks import AFFINE_TOLERANCE, REORIENT, check_header
from datasets.volumes.geometry import is_turned, largest_shift, voxel_ml
from datasets.volumes.layouts.datalist import read_datalist
from datasets.volumes.nifti import UnreadableVolumeError, read_header
from datasets.volumes.reading import read_label
from utils.evaluation.volumes.label_files import IN_CASE_FOLDER, find_labels, labels_folder
from utils.machine import memory_limit

CLASS_NAMES = {
    r"case_\d{5}": {1: "kidney", 2: "tumor", 3: "cyst"},
    r"volume-\d+": {1: "liver", 2: "tumor"},
    r"patient\d+_frame\d+": {1: "right ventricle", 2: "myocardium", 3: "left ventricle"},
}


@dataclass(frozen=True)
class Pair:
    """A predicted label file and its target, on one grid. spacing: mm, as the axes of the arrays that `read` returns.

    spacing_lost: the affine is an identity, as that of LiTS volumes 28 to 47 is: mm may be voxels. box: the part of the
    arrays that was looked into, where a locator chose it.
    """

    case: str
    patient: str
    prediction: Path
    label: Path
    spacing: tuple[float, float, float]
    spacing_lost: bool
    voxel_ml: float
    box: tuple[slice, slice, slice] | None = None

    def read(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8], set[int]]:
        """Predicted and target labels in file order, and the values above 0 in them.

        Raises ValueError naming the file that cannot be used.
        """
        labels = []
        for path in (self.prediction, self.label):
            label = read_label(path)
            if label.problem:
                raise ValueError(f"{path}: {label.problem}: {label.remedy}")
            labels.append(label)
        return labels[0].array, labels[1].array, {*labels[0].voxels, *labels[1].voxels} - {0}


@dataclass
class Found:
    """What two folders hold: pairs that can be scored, what is wrong with the others, and what to know of them."""

    pairs: list[Pair]
    findings: list[Finding]
    notes: list[str]


def find_pairs(predictions: Path, labels: Path) -> Found:
    """Match predicted label files with the labels they belong to.

    predictions, labels: folders, searched whole, or a file each. Files are matched by case: `case_00000.nii.gz`,
    `prediction_00000.nii.gz` and `case_00000/segmentation.nii.gz` are one (KiTS), as are `volume-7` and
    `segmentation-7` (LiTS), `patient001_frame01` with and without `_gt` (ACDC), and files of one name (MSD, nnU-Net).
    Where a name is in several folders, the folders must be named alike on both sides. A prediction without a label is a
    finding, a label without a prediction is a note. Raises ValueError when nothing is there or nothing matches.
    """
    sides = {"predictions": find_labels(predictions, "predictions"), "labels": find_labels(labels, "labels")}
    searched = dict.fromkeys(finding for side in sides.values() for finding in side.findings)
    findings, notes = [one for one in searched if one.bad], [str(one) for one in searched if not one.bad]
    notes += dict.fromkeys(side.passed_over for side in sides.values() if side.passed_over)
    ours, theirs = sides["predictions"].cases, sides["labels"].cases
    if predictions.is_file() and labels.is_file():
        ours = {case: next(iter(ours.values())) for case in theirs}
    ours, theirs = _of_images(ours, theirs), dict(theirs)
    for case in sorted(ours.keys() & theirs.keys()):
        if len(ours[case]) > 1 or len(theirs[case]) > 1:
            _part(case, ours, theirs, predictions, labels)
    pairs, doubtful = [], []
    for case in sorted(ours.keys() & theirs.keys(), key=_natural):
        for files in (ours[case], theirs[case]):
            findings += [Finding(path, f"is case {case}, as is {files[0]}", "keep one of them") for path in files[1:]]
        if len(ours[case]) == len(theirs[case]) == 1:
            found = _pair(case, ours[case][0], theirs[case][0])
            if isinstance(found, Finding):
                findings.append(found)
            else:
                pairs.append(found[0])
                doubtful += found[1]
    if not pairs and not findings:
        raise ValueError(
            f"no case of {predictions} ({_some(ours)}) is in {labels} ({_some(theirs)}): give the files the same names"
        )
    for case in sorted(ours.keys() - theirs.keys() - sides["labels"].unusable, key=_natural):
        findings.append(
            Finding(ours[case][0], f"no label of case {case} in {labels}", "give its label, or leave it out")
        )
    if missed := sorted(theirs.keys() - ours.keys() - sides["predictions"].unusable, key=_natural):
        notes.append(f"not scored: {len(missed)} labels without prediction ({listed(missed, 3)})")
    return Found(pairs, findings, notes + _by_remedy(doubtful))


def _of_images(ours: dict[str, list[Path]], theirs: Mapping[str, list[Path]]) -> dict[str, list[Path]]:
    """Predictions by the case of their label, where they are named as nnU-Net's images (`a_0000` for label `a`)."""
    named = {}
    for case, paths in ours.items():
        label = case.removesuffix("_0000")
        named[case if case in theirs or label in ours or label not in theirs else label] = paths
    return named


def _part(
    case: str, ours: dict[str, list[Path]], theirs: dict[str, list[Path]], predictions: Path, labels: Path
) -> None:
    """Distinguish files of one name in several folders by the folder, where it is named alike on both sides."""
    parted = []
    for files, root in ((ours, predictions), (theirs, labels)):
        folders: dict[str, list[Path]] = {}
        for path in files[case]:
            parent = path.parent.parent if stem(path) in IN_CASE_FOLDER else path.parent
            folders.setdefault((parent.relative_to(labels_folder(root)) / case).as_posix(), []).append(path)
        parted.append(folders)
    if parted[0].keys() & parted[1].keys() - {case}:
        for files, folders in zip((ours, theirs), parted, strict=True):
            del files[case]
            files |= folders


def _by_remedy(findings: Sequence[Finding]) -> list[str]:
    """One line for every kind of note, however many files have it."""
    kinds: dict[str, list[Finding]] = {}
    for finding in findings:
        kinds.setdefault(finding.remedy, []).append(finding)
    return [f"{found[0]}" + (f" ({len(found)} files)" if len(found) > 1 else "") for found in kinds.values()]


def _natural(name: str) -> list[tuple[str, int]]:
    return [(text, int(number or 0)) for text, number in re.findall(r"(\D*)(\d*)", name)]


def _some(names: Mapping[str, object]) -> str:
    return listed(sorted(names, key=_natural), 3) or "nothing"


def _pair(case: str, prediction: Path, label: Path) -> tuple[Pair, list[Finding]] | Finding:
    """The pair and the contradictions in its headers, or why it cannot be scored."""
    try:
        ours, theirs = read_header(prediction), read_header(label)
    except UnreadableVolumeError as error:
        return Finding(error.path, error.what, error.remedy)
    for path, header in ((prediction, ours), (label, theirs)):
        if len(header.shape) != 3:
            return Finding(path, f"shape {header.shape}", "give one label value per voxel in three dimensions")
    if ours.shape != theirs.shape:
        return Finding(prediction, f"shape {ours.shape} differs from {theirs.shape} of {label}", "predict on its grid")
    if 2 * np.prod(ours.shape, dtype=float) > memory_limit():
        what = f"takes {2 * np.prod(ours.shape, dtype=float) / 1e9:.1f} GB of memory with its label"
        return Finding(prediction, what, f"no more than {memory_limit() / 1e9:.1f} GB are used: score it elsewhere")
    findings = [*check_header(prediction, ours), *check_header(label, theirs)]
    if _are_one(prediction, label):
        what = "is the very file of its label, so it scores as perfect"
        findings.append(Finding(prediction, what, "give what was predicted", bad=False))
    if bad := next((finding for finding in findings if finding.bad), None):
        return bad
    shift = largest_shift(theirs.affine, ours.affine, theirs.shape)
    if not shift <= AFFINE_TOLERANCE * max(theirs.shape):  # also where it is not a number
        what = f"affine differs from that of {label} (up to {shift:.3g} voxels apart)"
        turned = is_turned(theirs.affine, ours.affine, theirs.shape)
        return Finding(prediction, what, REORIENT if turned else "predict on its grid, or give it its affine")
    lost = spacing_is_lost(theirs.affine)
    patient = re.sub(r"^(patient\d+)_frame\d+$", r"\1", case)
    spacing = theirs.spacing[::-1]
    return Pair(case, patient, prediction, label, spacing, lost, voxel_ml(theirs.affine)), findings


def _are_one(first: Path, second: Path) -> bool:
    """Whether two paths lead to one file or folder."""
    try:
        return first.samefile(second)
    except OSError:  # reading them will name the problem
        return False


def spacing_is_lost(affine: ArrayLike) -> bool:
    """Whether an affine is only 1 x 1 x 1 mm at the origin: then its mm may be voxels."""
    return np.array_equal(np.abs(affine), np.eye(4))


def known_classes(labels: Path, cases: list[str]) -> dict[int, str]:
    """Names of label values: of a dataset.json (MSD, nnU-Net) by the labels, else of the layout the cases are named in.

    Empty where neither names them.
    """
    for file in (labels / "dataset.json", labels.parent / "dataset.json"):
        if file.is_file():
            with suppress(OSError, ValueError):  # another kind of dataset.json
                classes = read_datalist(file).labels
                if len(set(classes.values())) == len(classes):
                    return classes
            break
    for pattern, names in CLASS_NAMES.items():
        if cases and all(re.fullmatch(pattern, case) for case in cases):
            return names
    return {}
