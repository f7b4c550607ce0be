"""Which volumes are to be predicted: those of a file, a folder or a list, and what cannot be read, or is left."""

from __future__ import annotations

import csv
import io
import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path

from datasets.files import NIFTI_ENDINGS, ending, remedy_of, stem
from datasets.findings import Finding
from datasets.scan import dead_link, scan
from datasets.volumes.dicom_tags import read_tags
from datasets.volumes.scans import Case, cases_of

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

    A folder gives what `cases_of` finds in it. Raises ValueError where there is nothing, where two
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
    cases = _refuse_equal(cases_of(found))
    return Found(cases, found.findings, [found.summary] if found.summary else [])


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
