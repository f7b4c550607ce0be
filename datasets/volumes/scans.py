"""Which files of a folder are scans: NIfTI images without the labels beside them, and DICOM series."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

from datasets.files import NIFTI_ENDINGS, ending, stem
from datasets.findings import Finding
from datasets.scan import Scan
from datasets.volumes.dicom_files import SeriesFiles, group_series

RECORD = "predictions.json"  # lies beside predicted labels
IMAGING = "imaging"  # KiTS has one in the folder of each case
IN_CASE_FOLDER = ("ct", "mri")  # TotalSegmentator's data sets have one there, which may be other files elsewhere
LITS = re.compile(r"volume-\d+")  # LiTS has them in folders of batches
LABEL_WORDS = "gt|seg|segs|segmentation|segmentations|label|labels|labelmap|mask|masks"
LABEL_OF = re.compile(rf"(.+)[_.-](?:{LABEL_WORDS})")
CHANNEL_OF = re.compile(r"(.+)_(\d{4})")


@dataclass(frozen=True)
class Case:
    """A volume: its name, and its NIfTI file, or the folder of its DICOM series with the files of that."""

    name: str
    path: Path
    series: SeriesFiles | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.path,) if self.series is None else self.series.files


def cases_of(found: Scan) -> list[Case]:
    """The volumes of a scanned folder: its NIfTI files without the labels that lie beside their images, and of all
    folders below it the DICOM series, KiTS's imaging.nii.gz, TotalSegmentator's ct.nii.gz or mri.nii.gz, and LiTS's
    volume-N.nii.

    Findings and what was passed over are added to the scan. Raises ValueError where a NIfTI file lies among the slices
    of a series.
    """
    folder = found.root
    groups = group_series(found)
    volumes = _without_channels(_images(found), found)
    for group in groups:
        if group.folder == folder and (files := [file for file in volumes if file.parent == folder]):
            raise ValueError(f"{folder}: holds a DICOM series and {files[0].name}: give the file, or part them")
    cases = [Case(name, file) for name, file in zip(_names(folder, volumes), volumes, strict=True)]
    for group in groups:
        name = f"{_way(folder, group.folder)}{'_' * bool(group.label)}{group.label}"
        cases.append(Case(name, group.folder, group))
    return cases


def _images(found: Scan) -> list[Path]:
    """The NIfTI files of a scan that are images to predict; what is a volume by name and none becomes a finding."""
    volumes = [file for file in found.files if ending(file) in NIFTI_ENDINGS]
    kits = {file.parent for file in volumes if _is_imaging(file, found.root)}
    made = {file.parent for file in found.files if file.name == RECORD and file.parent != found.root}
    here = {stem(file).lower() for file in volumes if file.parent == found.root}
    images = []
    for file in volumes:
        if file.parent in made:
            found.pass_over(file, f"place (predictions, beside {RECORD})")
        elif file.parent in kits:
            if _is_imaging(file, found.root):
                images.append(file)
            else:
                found.pass_over(file, "name (beside the image of a case's folder)")
        elif file.parent != found.root and not LITS.fullmatch(stem(file).lower()):
            found.pass_over(file, "place (in a subfolder only imaging, ct, mri, volume-N and DICOM count)")
        elif _is_label(stem(file).lower(), here):
            found.pass_over(file, "name (labels of an image beside them)")
        else:
            images.append(file)
    for folder in found.folders[1:]:
        if ending(folder) in NIFTI_ENDINGS and not any(folder in file.parents for file in found.files):
            found.findings.append(Finding(folder, "is a folder and holds no DICOM file", "give the volume's file"))
    for path in found.passed.get("kind (no regular file)", ()):
        if ending(path) in NIFTI_ENDINGS:
            found.findings.append(Finding(path, "is not a file", "give a .nii or .nii.gz file"))
    return images


def _is_label(name: str, beside: set[str]) -> bool:
    """Whether a volume holds the labels of one beside it: x_seg of x, segmentation-1 of volume-1, label of image."""
    match = LABEL_OF.fullmatch(name)
    if match:
        return bool({match[1], f"{match[1]}_0000"} & beside)
    if re.fullmatch(LABEL_WORDS, name):
        return len(beside) > 1
    return name.startswith("segmentation") and name.replace("segmentation", "volume", 1) in beside


def _without_channels(volumes: list[Path], found: Scan) -> list[Path]:
    """Take out cases of several files, one a channel, as nnU-Net has them: no name says which was learnt."""
    channels: dict[Path, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for file in volumes:
        if match := CHANNEL_OF.fullmatch(stem(file)):
            channels[file.parent][match[1]].append(file)
    for folder, cases in channels.items():
        several = {name: files for name, files in cases.items() if _numbered_from_0(files)}
        if not several or (len(several) == 1 and not folder.name.startswith("images")):
            continue  # case_0000, case_0001: the only such name, so these are cases
        files = next(iter(several.values()))
        what = f"is a channel of a case of {len(files)} files, as are the files of {len(several)} cases"
        remedy = "list the file of the channel that the checkpoint learnt, case by case, in a CSV"
        found.findings.append(Finding(files[0], what, remedy))
        taken = {file for files in several.values() for file in files}
        volumes = [file for file in volumes if file not in taken]
    return volumes


def _numbered_from_0(files: list[Path]) -> bool:
    numbers = sorted(int(stem(file)[-4:]) for file in files)
    return len(files) > 1 and numbers == list(range(len(files)))


def _is_imaging(file: Path, root: Path) -> bool:
    name = stem(file).lower()
    return name == IMAGING or (name in IN_CASE_FOLDER and file.parent != root)


def _names(root: Path, volumes: list[Path]) -> list[str]:
    """Files go by their own name, that of a case's folder by the folder's, or its whole way where two have one name."""
    folders = Counter(file.parent.name for file in volumes if _is_imaging(file, root))
    names = []
    for file in volumes:
        if not _is_imaging(file, root):
            names.append(stem(file) or file.name)
        elif file.parent == root or folders[file.parent.name] > 1:
            names.append(_way(root, file.parent))
        else:
            names.append(file.parent.name)
    return names


def _way(root: Path, folder: Path) -> str:
    """The folders from `root` to a folder in one name, so that a patient's is part of it; for `root` its own name."""
    return "_".join(folder.relative_to(root).parts) or root.resolve().name or "volume"
