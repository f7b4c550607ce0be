"""What is to be predicted: found in a file, folder or list, opened by its header, read when its turn comes."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from datasets.checks import check_image
from datasets.dicom import Series, find_series, is_dicom, read_series
from datasets.geometry import orient
from datasets.nifti import Header, UnreadableVolumeError, read_header
from datasets.volumes import Image, read_image

SUFFIXES = (".nii.gz", ".nii")
NO_FILE_NAME = re.compile(r"^\.|[/\\\x00-\x1f\x7f]")


@dataclass(frozen=True)
class Case:
    """A volume to predict: its name, and its NIfTI file or the folder of its DICOM series."""

    name: str
    path: Path


@dataclass
class Source:
    """A case whose headers were read. `axes` and `flips` lead to axial slices; `notes` are told, and stop nothing.

    series: of a DICOM folder, else None.
    """

    case: Case
    header: Header
    series: Series | None
    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]
    modality: str
    channel: int
    notes: list[str] = field(default_factory=list)

    @property
    def voxels(self) -> int:
        return int(np.prod(self.header.shape[:3]))

    @property
    def voxel_ml(self) -> float:
        return abs(float(np.linalg.det(self.header.affine[:3, :3]))) / 1000

    def read(self) -> Image:
        """The voxels, int16 HU or float32. Raises ValueError for a damaged file and values that cannot be used."""
        if self.series is None:
            image = read_image(self.case.path, self.modality, self.channel)
        else:
            image = read_series(self.series, self.modality)
        for finding in check_image(self.case.path, image, self.modality):
            if image.problem:
                raise ValueError(str(finding))
            self.notes.append(f"{finding.what}: {finding.remedy}")
        return image


def find_volumes(path: Path) -> list[Case]:
    """The volumes of a NIfTI file, a DICOM folder, a CSV with the columns case and image, or a folder.

    A folder gives its NIfTI files, and of its subfolders those with a DICOM series or KiTS's imaging.nii.gz; what is
    named as a volume or cannot be looked into is a case too, so that it is told. Raises ValueError where there is none,
    or two have one name.
    """
    if path.is_dir():
        cases = _in_folder(path)
    elif path.suffix.lower() == ".csv":
        cases = _in_list(path)
    elif path.exists():
        cases = [Case(_name(path), path)]
    else:
        raise ValueError(f"{path}: no such file or folder: give a NIfTI, a folder, a CSV or a DICOM folder as --input")
    if not cases:
        raise ValueError(f"{path}: no volume in it: give .nii or .nii.gz files, or a folder with a DICOM series")
    seen: dict[str, Path] = {}
    for case in cases:
        if case.name in seen:
            raise ValueError(f"{case.path} and {seen[case.name]} are both {case.name}: rename one, or give a CSV")
        seen[case.name] = case.path
    return cases


def _name(path: Path) -> str:
    suffix = next((suffix for suffix in SUFFIXES if path.name.endswith(suffix)), "")
    return path.name.removesuffix(suffix) or path.name


def _in_folder(folder: Path) -> list[Case]:
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    files = [entry for entry in entries if entry.name.endswith(SUFFIXES) and not entry.is_dir()]
    if _is_series(folder):
        if files:
            raise ValueError(f"{folder}: holds a DICOM series and {files[0].name}: give the file, or part them")
        return [Case(folder.resolve().name, folder)]
    cases = [Case(_name(file), file) for file in files]
    for subfolder in (entry for entry in entries if entry.is_dir()):
        try:
            volume = _in_subfolder(subfolder)
        except OSError:
            volume = subfolder
        if volume is not None:
            cases.append(Case(subfolder.name, volume))
    return cases


def _in_subfolder(folder: Path) -> Path | None:
    imaging = next((folder / f"imaging{suffix}" for suffix in SUFFIXES if (folder / f"imaging{suffix}").exists()), None)
    if imaging is None and (_is_series(folder) or folder.name.endswith(SUFFIXES)):
        return folder
    return imaging


def _is_series(folder: Path) -> bool:
    return any(is_dicom(file) for file in folder.iterdir())


def _in_list(path: Path) -> list[Case]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: unreadable ({error}): give a CSV with the columns case and image") from None
    cases = []
    for number, row in enumerate(rows, start=2):
        name, image = row.get("case"), row.get("image")
        if not name or not image:
            raise ValueError(f"{path}: line {number} has no case or image: give a CSV with the columns case and image")
        if NO_FILE_NAME.search(name):
            raise ValueError(f"{path}: line {number}: case {name!r} is no file name: leave out / and \\")
        if "\0" in image:
            raise ValueError(f"{path}: line {number}: image {image!r} is no path: give one from the CSV's folder")
        cases.append(Case(name, path.parent / image))
    return cases


def open_source(case: Case, modality: str, channel: int | None, slice_axis: int | None) -> Source:
    """Read the headers of a case. Raises ValueError, in one line with its file, where it is no volume to predict."""
    if case.path.is_dir():
        return _open_series(case, modality, slice_axis)
    header = read_header(case.path)
    channels = header.shape[3] if len(header.shape) == 4 else 1
    if channels > 1 and channel is None:
        remedy = f"choose one with --channel 0..{channels - 1}"
        raise UnreadableVolumeError(case.path, f"four axes, shape {header.shape}", remedy)
    if (channel or 0) >= channels:
        raise UnreadableVolumeError(case.path, f"no channel {channel}", "choose a lower --channel")
    source = _oriented(case, header, None, modality, channel or 0, slice_axis)
    if header.sform_code == 0 and header.qform_code == 0:
        source.notes.append("neither sform nor qform is set, its orientation is a guess: look at the result")
    return source


def _open_series(case: Case, modality: str, slice_axis: int | None) -> Source:
    series = find_series(case.path)
    if series.modality and series.modality != modality:
        what = f"the series is {series.modality}, the checkpoint learnt {modality}"
        raise UnreadableVolumeError(case.path, what, f"give a {modality} series")
    source = _oriented(case, series.header, series, modality, 0, slice_axis)
    if series.left_out:
        source.notes.append(f"{series.left_out} files that are no DICOM, or cannot be opened, were left out")
    return source


def _oriented(
    case: Case, header: Header, series: Series | None, modality: str, channel: int, slice_axis: int | None
) -> Source:
    try:
        axes, flips = orient(header.affine, slice_axis)
    except ValueError:
        what = "affine is singular or not finite"
        raise UnreadableVolumeError(case.path, what, "write the volume again with its affine") from None
    return Source(case, header, series, axes, flips, modality, channel)
