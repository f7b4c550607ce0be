"""The patient of every image, from a CSV that a person made."""

import csv
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from datasets.files import describe

BLANK = {"", "nan", "na", "n/a", "none", "null", "-", "?"}


def read_patients(file: Path, cases: Sequence[str]) -> tuple[list[str], list[str]]:
    """The patient of each image, and a line about the rows that fit none of them.

    Args:
        file: CSV (with commas, semicolons or tabs) of the columns `image` and `patient`. An image is written as its
            path below the root, as the end of that path, or as its file name, each with or without its ending.
        cases: The images, by their paths below the root.

    Raises ValueError for another kind of file, a name that fits several images, an image that has two patients or none,
    and blank patients.
    """
    rows = _read(file)
    keys = {case: [form for form in _forms(case) if form in rows] for case in cases}  # the most exact one first
    if missing := [case for case in cases if not keys[case]]:
        named = f" (its first row names {next(iter(rows))})" if rows else ""
        raise ValueError(f"{file}: names no patient of {len(missing)} images, such as {missing[0]}{named}: add them")
    owner: dict[str, str] = {}
    for case in cases:
        key = keys[case][0]
        if (other := owner.setdefault(key, case)) != case:
            raise ValueError(
                f"{file}: names are not unique: {key} fits {other} and {case}: give the paths below the root"
            )
    for case in cases:
        if len(named := {patient for key in keys[case] for patient in rows[key]}) > 1:
            raise ValueError(f"{file}: {case} has the patients {' and '.join(sorted(named))}: keep one row")
    patients = [rows[keys[case][0]][0] for case in cases]
    if blank := [place for place, patient in enumerate(patients) if patient.lower() in BLANK]:
        raise ValueError(
            f"{file}: the patient of {len(blank)} images is blank, such as {patients[blank[0]]!r} for "
            f"{cases[blank[0]]}: name them; where one is not known, give the image a patient of its own"
        )
    used = {key for case in cases for key in keys[case]}
    unused, notes = [key for key in rows if key not in used], []
    if unused:
        notes = [f"{file}: passed over: {len(unused)} of {len(rows)} names, which fit no image, such as {unused[0]}"]
    return patients, notes


def _read(file: Path) -> dict[str, list[str]]:
    """The patients that each image name is given."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            header = lines.readline()
            mark = max(",;\t", key=header.count)
            columns = [name.strip().strip('"').strip().lower() for name in header.split(mark)]
            if missing := [name for name in ("image", "patient") if name not in columns]:
                had = ", ".join(filter(None, columns)) or "none"
                raise ValueError(f"{file}: has no column {missing[0]} but {had}: give CSV with columns image, patient")
            if twice := [name for name in ("image", "patient") if columns.count(name) > 1]:
                raise ValueError(f"{file}: has the column {twice[0]} twice: keep one")
            image, patient = columns.index("image"), columns.index("patient")
            rows: dict[str, list[str]] = defaultdict(list)
            for row in csv.reader(lines, delimiter=mark):
                cells = [cell.strip() for cell in row] + [""] * len(columns)  # a row may end early
                if any(cells):
                    rows[_fold(cells[image].replace("\\", "/").removeprefix("./"))].append(cells[patient])
            return rows
    except OSError as error:
        raise ValueError(describe(error, file)) from None
    except UnicodeDecodeError:
        raise ValueError(f"{file}: is not UTF-8: save it as CSV UTF-8") from None
    except csv.Error as error:
        raise ValueError(f"{file}: is not CSV ({error}): give CSV with columns image, patient") from None


def _fold(name: str) -> str:
    """A name with its ending in lower case: .PNG and .png are equal."""
    ending = PurePosixPath(name).suffix
    return name.removesuffix(ending) + ending.lower()


def _forms(case: str) -> Iterator[str]:
    """All that a row may call an image, from its whole path to its bare name."""
    parts = PurePosixPath(_fold(case)).parts
    paths = ["/".join(parts[start:]) for start in range(len(parts))]
    yield from paths
    for path in paths:
        yield path.removesuffix(PurePosixPath(path).suffix)
