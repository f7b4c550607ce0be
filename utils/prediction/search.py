"""Which volumes are to be predicted: those of a file, a folder or a list, and what cannot be read, or is left."""

from __future__ import annotations

import csv
import io
import os
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path

from datasets.files import NIFTI_ENDINGS, ending, remedy_of, stem
from datasets.findings import Finding
from datasets.scan import Scan, dead_link, scan
from datasets.volumes.dicom_files import group_series
from datasets.volumes.dicom_tags import read_tags
from utils.prediction.inputs import Case
from utils.prediction.outputs import RECORD

IMAGING = "imaging"  # KiTS has one in the folder of each case
LITS = re.compile(r"volume-\d+")  # LiTS has them in folders of batches
LABEL_WORDS = "gt|seg|segs|segmentation|segmentations|label|labels|labelmap|mask|masks"
LABEL_OF = re.compile(rf"(.+)[_.-](?:{LABEL_WORDS})")
CHANNEL_OF = re.compile(r"(.+)_(\d{4})")
NO_FILE_NAME = re.compile(r"^\.|[/\\\x00-\x1f\x7f]")
COLUMNS = "give a CSV with the columns case and image"


@dataclass
class Found:
    """The cases, what is wrong beside them (one line each), and a line about what was passed over in each folder."""

    cases: list[Case]
    findings: list[Finding]
    passed_over: list[str] = field(default_factory=list)


def find_volumes(path: Path) -> Found:
    """Find the volumes of a NIfTI file, a CSV with the columns case and image, or a folder.

    A folder gives its NIfTI files without the labels that lie beside their images, and of all folders below it the
    DICOM series, KiTS's imaging.nii.gz and LiTS's volume-N.nii. Raises ValueError where there is nothing, where two
    cases have one name, and for a list that cannot be meant; OSError where `path` cannot be read.
    """
    if path.is_dir():
        found = _in_folder(path)
    elif path.suffix.lower() == ".csv":
        found = _in_list(path)
    else:
        found = _at(stem(path) if ending(path) in NIFTI_ENDINGS else path.name, path)
    if not found.cases and not any(finding.bad for finding in found.findings):
        passed = "".join(f" ({line.removeprefix(f'{path}: ')})" for line in found.passed_over[:1])
        raise ValueError(
            f"{path}: no volume in it{passed}: give .nii or .nii.gz files, or a folder with a DICOM series"
        )
    return found


def _at(name: str, path: Path) -> Found:
    """The case `name` at a path that somebody named: a volume, or a folder that holds one."""
    try:
        if path.is_symlink() and (problem := dead_link(path)):
            return Found([], [problem])
        if path.is_dir():
            inside = _in_folder(path)
            if len(inside.cases) == 1:
                return replace(inside, cases=[replace(inside.cases[0], name=name)])
            what, remedy = "holds no DICOM file and no volume", "give a file, or the folder of one series"
            if inside.cases:
                names = ", ".join([case.name for case in inside.cases[:3]] + ["..."] * (len(inside.cases) > 3))
                what, remedy = f"holds {len(inside.cases)} volumes ({names})", "give each of them by itself"
            return replace(inside, cases=[], findings=[*inside.findings, Finding(path, what, remedy)])
        if path.is_file() and ending(path) not in NIFTI_ENDINGS and read_tags(path) is not None:
            return Found([], [Finding(path, "is one DICOM file", "give the folder of its series")])
    except OSError as error:
        return Found([], [Finding(Path(error.filename or path), f"{error.strerror}", remedy_of(error))])
    return Found([Case(name, path)], [])


def _in_folder(folder: Path) -> Found:
    found = scan(folder)
    groups = group_series(found)
    volumes = _without_channels(_images(found), found)
    for group in groups:
        if group.folder == folder and (files := [file for file in volumes if file.parent == folder]):
            raise ValueError(f"{folder}: holds a DICOM series and {files[0].name}: give the file, or part them")
    cases = [Case(name, file) for name, file in zip(_names(folder, volumes), volumes, strict=True)]
    for group in groups:
        name = f"{_way(folder, group.folder)}{'_' * bool(group.label)}{group.label}"
        cases.append(Case(name, group.folder, group))
    return Found(_refuse_equal(cases), found.findings, [found.summary] if found.summary else [])


def _images(found: Scan) -> list[Path]:
    """The NIfTI files of a scan that are images to predict; what is a volume by name and none becomes a finding."""
    volumes = [file for file in found.files if ending(file) in NIFTI_ENDINGS]
    kits = {file.parent for file in volumes if _is_imaging(file)}
    made = {file.parent for file in found.files if file.name == RECORD and file.parent != found.root}
    here = {stem(file).lower() for file in volumes if file.parent == found.root}
    images = []
    for file in volumes:
        if file.parent in made:
            found.pass_over(file, f"place (predictions, beside {RECORD})")
        elif file.parent in kits:
            if _is_imaging(file):
                images.append(file)
            else:
                found.pass_over(file, f"name (beside {IMAGING}.nii.gz)")
        elif file.parent != found.root and not LITS.fullmatch(stem(file).lower()):
            found.pass_over(file, "place (in a subfolder only imaging.nii.gz, volume-N.nii and DICOM count)")
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


def _is_imaging(file: Path) -> bool:
    return stem(file).lower() == IMAGING


def _names(root: Path, volumes: list[Path]) -> list[str]:
    """Files go by their own name, KiTS's by that of their folder, and by its whole way where two have one name."""
    folders = Counter(file.parent.name for file in volumes if _is_imaging(file))
    names = []
    for file in volumes:
        if not _is_imaging(file):
            names.append(stem(file) or file.name)
        elif file.parent == root or folders[file.parent.name] > 1:
            names.append(_way(root, file.parent))
        else:
            names.append(file.parent.name)
    return names


def _way(root: Path, folder: Path) -> str:
    """The folders from `root` to a folder in one name, so that a patient's is part of it; for `root` its own name."""
    return "_".join(folder.relative_to(root).parts) or root.resolve().name or "volume"


def _refuse_equal(cases: list[Case]) -> list[Case]:
    seen: dict[str, Path] = {}
    for case in cases:
        if case.name in seen:
            first = seen[case.name]
            raise ValueError(f"{case.path} and {first} are both {case.name}: rename or remove one, or give a CSV")
        seen[case.name] = case.path
    return cases


def _in_list(path: Path) -> Found:
    """The cases of a CSV, with commas, semicolons or tabs; paths from its folder, with either slash."""
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig", "surrogateescape")
        lines = text.removeprefix("\ufeff").lstrip("\r\n")
        header = lines.splitlines()[0] if lines else ""
        rows = list(csv.reader(io.StringIO(lines, newline=""), delimiter=max(",;\t", key=header.count)))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: unreadable ({error}): {COLUMNS}") from None
    columns = [name.strip().lower() for name in rows[0]] if rows else []
    if not {"case", "image"} <= set(columns):
        raise ValueError(f"{path}: has the columns {', '.join(columns) or 'of an empty file'}: {COLUMNS}")
    found, lines_of = Found([], []), {}
    for number, cells in enumerate(rows[1:], start=2):
        if not any(cell.strip() for cell in cells):
            continue
        row = dict(zip(columns, (cell.strip() for cell in cells), strict=False))
        name, image = row.get("case"), row.get("image")
        if not name or not image:
            raise ValueError(f"{path}: line {number} has no case or image: {COLUMNS}")
        if NO_FILE_NAME.search(name):
            raise ValueError(f"{path}: line {number}: case {name!r} is not a file name: leave out / and \\")
        if "\0" in image:
            raise ValueError(f"{path}: line {number}: image {image!r} is not a path: give one from the CSV's folder")
        if name in lines_of:
            raise ValueError(f"{path}: lines {lines_of[name]} and {number} are both {name}: give each row its own case")
        lines_of[name] = number
        file = path.parent / image
        if "\\" in image and not os.path.lexists(file):  # unlike Path.exists, this raises nothing
            file = path.parent / image.replace("\\", "/")
        if not (image.isprintable() or os.path.lexists(file)):
            raise ValueError(f"{path}: line {number}: {image!r} is not UTF-8, or no path: save the list as CSV UTF-8")
        each = _at(name, file)
        found.cases += each.cases
        found.findings += each.findings
        found.passed_over += each.passed_over
    return found
