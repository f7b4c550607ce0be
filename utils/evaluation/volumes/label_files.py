"""The label files of a folder by case, and what lies beside them and is not a label."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from datasets.files import NIFTI_ENDINGS, ending, stem
from datasets.findings import Finding
from datasets.scan import NO_FILE, scan

BESIDE_LABELS = re.compile(r"(.+)_(4d|\d{4}|probabilities)")  # ACDC, nnU-Net, predict.py
IMAGE = "name of an image or of probabilities"
IN_CASE_FOLDER = ("segmentation", "prediction", "aggregated_MAJ_seg")  # named by their folder (KiTS)
IMAGES_BESIDE_LABELS = re.compile(r"volume-\d+|patient\d+_frame\d+")  # LiTS, ACDC; a prediction may be named so


@dataclass
class Labels:
    """The label files of one side by case; findings of the search and the cases they concern; what was passed over."""

    cases: dict[str, list[Path]]
    findings: list[Finding]
    unusable: set[str]
    passed_over: str | None


def find_labels(root: Path, what: str) -> Labels:
    """NIfTI files by case; what lies beside the label of its case (an image, probabilities) is not a label."""
    if root.is_file():
        return Labels({case_name(root): [root]}, [], set(), None)
    if not root.is_dir():
        raise ValueError(f"--{what} {root}: no such file or folder")
    found = scan(labels_folder(root))
    named = [folder for folder in found.folders[1:] if ending(folder) in NIFTI_ENDINGS]
    empty = [folder for folder in named if not any(folder in file.parents for file in found.files)]
    found.files += [*found.passed.pop(NO_FILE, []), *empty]  # named as a label: who reads them says what they are
    found.keep(lambda file: ending(file) in NIFTI_ENDINGS, "ending")
    names = {stem(file) for file in found.files}
    found.keep(lambda file: not _is_beside_label(stem(file), names), IMAGE)
    files: dict[str, list[Path]] = {}
    for file in found.files:
        files.setdefault(case_name(file), []).append(file)
    for case, paths in files.items():
        if labels := [path for path in paths if not IMAGES_BESIDE_LABELS.fullmatch(stem(path))]:
            for path in set(paths) - set(labels):
                found.pass_over(path, IMAGE)
            files[case] = labels
    findings = []
    for finding in found.findings:  # an image that was not fetched is not needed here
        file = finding.file
        if os.path.isdir(file):  # noqa: PTH112  Path.is_dir raises for a link into a closed folder
            findings.append(finding)
        elif ending(file) not in NIFTI_ENDINGS:
            found.pass_over(file, "ending")
        elif _is_beside_label(stem(file), names) or (
            IMAGES_BESIDE_LABELS.fullmatch(stem(file)) and case_name(file) in files
        ):
            found.pass_over(file, IMAGE)
        else:
            findings.append(finding)
    if not files and not any(finding.bad for finding in findings):
        passed = f" ({found.summary.removeprefix(f'{found.root}: ')})" if found.summary else ""
        raise ValueError(f"--{what} {root}: holds no .nii or .nii.gz label file{passed}")
    unusable = {case_name(finding.file) for finding in findings if finding.bad}
    return Labels(files, findings, unusable, found.summary)


def labels_folder(root: Path) -> Path:
    """Where the labels of a folder lie: beside its images, or in its labelsTr (MSD, nnU-Net)."""
    return root / "labelsTr" if (root / "labelsTr").is_dir() else root


def _is_beside_label(name: str, names: set[str]) -> bool:
    """Whether a file of this name belongs to a label among these names: an image, a channel of one, probabilities."""
    if name == "imaging":
        return True
    match = BESIDE_LABELS.fullmatch(name)
    return match is not None and match[1] in names and (not match[2].isdigit() or f"{match[1]}_0000" in names)


def case_name(path: Path) -> str:
    """The case a label file belongs to, by the naming of the published layouts."""
    name = stem(path)
    if name in IN_CASE_FOLDER:
        return path.parent.name
    if match := re.fullmatch(r"(?:test-)?(?:volume|segmentation)-(\d+)", name):
        return f"volume-{match[1]}"
    if match := re.fullmatch(r"prediction_(\d{5})", name):
        return f"case_{match[1]}"
    return name.removesuffix("_gt")
