"""ISIC 2024's metadata as features, without the columns that reveal the answer."""

import csv
import math
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

import numpy as np

from datasets.files import remedy_of
from datasets.images.isic import METADATA

LEAKS = {  # pattern of column names: why they are not features
    "target": "it is the answer",
    "iddx_*": "the diagnosis, made after the biopsy",
    "mel_*": "measured in the excised melanoma",
    "lesion_id": "only lesions that a physician marked have one",
    "tbp_lv_dnn_lesion_confidence": "not in the test metadata",
    "isic_id": "a name, not a measurement",
    "patient_id": "a name, not a measurement",
}
MISSING = ("", "NA", "nan")


@dataclass(frozen=True)
class Metadata:
    """Features of lesions.

    Args:
        isic_ids: N of them, in the order of the rows.
        columns: F names.
        values: (N, F) float64; a category is its number; NaN where nothing is known.
        categories: For every column that is not numbers, what its numbers stand for.
    """

    isic_ids: list[str]
    columns: list[str]
    values: np.ndarray
    categories: dict[str, list[str]]


def leak_reason(column: str) -> str | None:
    """Why a column of the metadata cannot be a feature; None where it can."""
    return next((reason for pattern, reason in LEAKS.items() if fnmatchcase(column, pattern)), None)


def read_metadata(
    root: str | Path, columns: Sequence[str] | Literal["all"] = "all", isic_ids: Sequence[str] | None = None
) -> Metadata:
    """Read columns of `ROOT/train-metadata.csv` as numbers and categories.

    A column is numeric if all its values in the whole file are, else categorical in alphabetical order: this does not
    depend on the rows asked for.

    Args:
        root: Folder that holds the file.
        columns: Names, or `all`: every column that does not leak.
        isic_ids: Rows to return, in this order. None: all.

    Raises ValueError for a column that leaks the answer (with the reason) or is unknown, and for a lesion without row.
    """
    file = Path(root) / METADATA
    header = _header(file)
    if columns == "all":
        columns = [name for name in header if leak_reason(name) is None]
    for name in columns:
        if reason := leak_reason(name):
            raise ValueError(f"column {name} is refused as a feature: {reason}")
        if name not in header:
            raise ValueError(f"{file}: has no column {name}: choose from {', '.join(header)}")
    key, places = header.index("isic_id"), [header.index(name) for name in columns]
    numeric = _numeric(file, places)
    wanted = None if isic_ids is None else set(isic_ids)
    codes: list[dict[str, int]] = [{} for _ in places]
    row_of: dict[str, int] = {}
    flat = array("d")  # 400,000 rows of 40 columns are 128 MB so, and 1 GB as text
    for row in _rows(file):
        values = [_value(row[place], known, plain) for place, known, plain in zip(places, codes, numeric, strict=True)]
        if wanted is None or row[key] in wanted:
            row_of[row[key]] = len(row_of)
            flat.extend(values)
    table = np.array(flat, np.float64).reshape(len(row_of), len(places))
    for column, known in enumerate(codes):
        present = ~np.isnan(table[:, column])
        if known:
            rank = np.argsort(np.argsort(list(known)))  # of a category, by its number in order of appearance
            table[present, column] = rank[table[present, column].astype(int)]
    ids = list(row_of) if isic_ids is None else list(isic_ids)
    if absent := [name for name in ids if name not in row_of]:
        raise ValueError(f"{file}: has no row for {len(absent)} lesions, such as {absent[0]}")
    categories = {name: sorted(known) for name, plain, known in zip(columns, numeric, codes, strict=True) if not plain}
    return Metadata(ids, list(columns), table[[row_of[name] for name in ids]], categories)


def _value(text: str, codes: dict[str, int], plain: bool) -> float:
    """A number, or the number that stands for the category from its first appearance on."""
    if text in MISSING:
        return math.nan
    return float(text) if plain else codes.setdefault(text, len(codes))


def _numeric(file: Path, places: Sequence[int]) -> list[bool]:
    """Whether a column holds numbers only, in the whole file."""
    left = set(places)
    for row in _rows(file):
        left -= {place for place in left if not _is_number(row[place])}
    return [place in left for place in places]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return text in MISSING
    return True


def _header(file: Path) -> list[str]:
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            header = next(csv.reader(lines), [])
    except OSError as error:
        raise ValueError(f"{file}: cannot be read ({error.strerror}): {remedy_of(error)}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{file}: cannot be read ({error}): download it again") from None
    if "isic_id" not in header:
        raise ValueError(f"{file}: has no column isic_id: is it ISIC 2024's?")
    return header


def _rows(file: Path) -> Iterator[list[str]]:
    with file.open(newline="", encoding="utf-8-sig") as lines:
        reader = csv.reader(lines)
        width = len(next(reader))
        for row in filter(None, reader):
            if len(row) != width:
                raise ValueError(f"{file}: line {reader.line_num} has {len(row)} of {width} columns: download it again")
            yield row
