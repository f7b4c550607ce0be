"""What an evaluation writes: PREFIX.json (everything), PREFIX.csv (a row a case and class), PREFIX_lesions.csv."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

LESION_COLUMNS = ("case", "patient", "class", "outcome", "target_ml", "prediction_ml", "iou")


def write_scores(prefix: Path, content: Mapping[str, Any]) -> list[Path]:
    """Writes the files of an evaluation (`rows`, `lesions` and more), each in one step, and returns their paths."""
    return [
        write_json(prefix, content),
        write_csv(prefix, content["rows"]),
        write_csv(prefix.with_name(f"{prefix.name}_lesions"), content["lesions"], LESION_COLUMNS),
    ]


def write_json(prefix: Path, content: Mapping[str, Any]) -> Path:
    return _write(prefix.with_name(f"{prefix.name}.json"), json.dumps(content, indent=1, allow_nan=False) + "\n")


def write_csv(prefix: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> Path:
    """A table of rows of equal keys; None is an empty field."""
    text = io.StringIO()
    table = csv.DictWriter(text, columns or list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return _write(prefix.with_name(f"{prefix.name}.csv"), text.getvalue())


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(text)
    temporary.replace(path)
    return path


def as_prefix(output: str) -> Path:
    """The path that the names of the files begin with; a `.json` or `.csv` at its end is left out."""
    path = Path(output)
    return path.with_suffix("") if path.suffix in (".json", ".csv") else path


def read_scores(path: str) -> dict[str, Any]:
    """An evaluation written by scripts/evaluate.py, or the test.json of a segmentation run.

    Raises ValueError naming the file when it is neither.
    """
    try:
        content = json.loads(Path(path).read_text())
        known = all({"case", "class", "dice", "target_voxels"} <= row.keys() for row in content["rows"])
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); scripts/evaluate.py writes such a file") from None
    except (ValueError, TypeError, KeyError, AttributeError):
        known = False
    if not known or not content["rows"]:
        raise ValueError(f"{path}: holds no scores of cases and classes; give a .json that scripts/evaluate.py wrote")
    return content
