"""A leaderboard's tables as CSV files."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets.files import replacing

COLUMNS = [
    *("student", "method", "seeds", "dice", "dice_sd", "val_dice"),
    *("gain", "gain_low", "gain_high", "verdict", "closed", "closed_low", "closed_high"),
    *("share", "ms_per_image", "ranked", "why"),
]
SCORE_COLUMNS = ["student", "method", "seed", "case", "patient", "dice"]


def write_csv(file: Path, table: Sequence[Mapping[str, Any]], columns: Sequence[str] = COLUMNS) -> None:
    """One line a row, written whole or not at all."""
    names = [*columns, *dict.fromkeys(name for row in table for name in row if name.startswith("dice/"))]
    refuse_foreign_table(file, columns)
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as partial, partial.open("w", newline="") as lines:
        writer = csv.DictWriter(lines, names, lineterminator="\n")
        writer.writeheader()
        for row in table:
            writer.writerow({key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()})


def refuse_foreign_table(file: Path, columns: Sequence[str] = COLUMNS) -> None:
    """Raises ValueError where a file that is not such a table would be replaced."""
    if file.exists() and (start := file.read_bytes()[:100]) and not start.startswith(",".join(columns[:5]).encode()):
        raise ValueError(f"{file}: is there already, and this program did not write it: choose another output")
