"""What an evaluation writes: PREFIX.json (everything), PREFIX.csv (a row a case and class), PREFIX_lesions.csv."""

import csv
import errno
import io
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets.files import write_text
from utils.evaluation.volumes.scores import HIGHER_IS_BETTER

LESION_COLUMNS = ("case", "patient", "class", "outcome", "target_ml", "prediction_ml", "iou")


def as_prefix(output: str) -> Path:
    """The path that the names of the files begin with; a `.json` or `.csv` at its end is left out."""
    path = Path(output)
    return path.with_suffix("") if path.suffix in (".json", ".csv") else path


def table_files(prefix: Path) -> tuple[Path, Path]:
    """Where the rows under this name lie, as JSON and as CSV."""
    return prefix.with_name(f"{prefix.name}.json"), prefix.with_name(f"{prefix.name}.csv")


def score_files(prefix: Path) -> tuple[Path, Path, Path]:
    """Where the parts of an evaluation lie: everything, the rows, the lesions."""
    return *table_files(prefix), prefix.with_name(f"{prefix.name}_lesions.csv")


def refuse_existing(files: Iterable[Path], overwrite: bool, inputs: Iterable[Path] = ()) -> None:
    """Raises ValueError where something would be replaced unasked, or an input at all."""
    inputs = [path for path in inputs if path.exists()]
    for file in (file for file in files if file.exists()):
        if any(file.samefile(path) for path in inputs):
            raise ValueError(f"{file}: is an input: choose another --output")
        if not overwrite:
            raise ValueError(f"{file}: is there already: choose another --output, or pass --overwrite")


def check_place(prefix: Path) -> None:
    """Makes the folder of these files. Raises OSError where it cannot be written, before hours go into scores."""
    prefix.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(prefix.parent, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(prefix.parent))


def write_scores(prefix: Path, content: Mapping[str, Any]) -> tuple[Path, Path, Path]:
    """Writes the files of an evaluation (`rows`, `lesions` and more), each in one step, and returns their paths."""
    files = everything, rows, lesions = score_files(prefix)
    write_json(everything, content)
    write_csv(rows, content["rows"])
    write_csv(lesions, content["lesions"], LESION_COLUMNS)
    return files


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    _write(file, json.dumps(content, indent=1, allow_nan=False) + "\n")


def write_csv(file: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> None:
    """A table of rows of equal keys; None is an empty field."""
    text = io.StringIO()
    table = csv.DictWriter(text, columns or list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    _write(file, text.getvalue())


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)


def read_scores(path: Path) -> dict[str, Any]:
    """An evaluation written by scripts/evaluate.py, or the test.json of a segmentation run.

    Raises ValueError naming the file when it is neither.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        known = all(_is_row(row) for row in content["rows"]) and isinstance(content.get("evaluated", {}), dict)
        places = [(row["case"], row["class"]) for row in content["rows"]]
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); scripts/evaluate.py writes such a file") from None
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        known, places = False, []
    if not known or not places or len(set(places)) < len(places):
        raise ValueError(f"{path}: holds no scores of cases and classes; give a .json that scripts/evaluate.py wrote")
    return content


def _is_row(row: Mapping[str, Any]) -> bool:
    """Whether it has a case, a class, the voxels of its target, and scores that are finite numbers where it has one."""
    names = row["case"], row["class"], row.get("patient", "")
    scores = [row["dice"], *(row.get(score) for score in HIGHER_IS_BETTER)]
    return (
        all(isinstance(name, str) for name in names)
        and isinstance(row["target_voxels"], int)
        and all(score is None or (isinstance(score, int | float) and math.isfinite(score)) for score in scores)
    )
