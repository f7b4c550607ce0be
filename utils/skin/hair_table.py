"""OUT_hair.csv: what RemoveHair has written to a folder, so that it continues there and replaces nothing else."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from threading import Lock
from typing import Any

from datasets.files import write_text

COLUMNS = ("image", "hair", "contrast", "source")


@dataclass(frozen=True)
class Treated:
    """A row: the share of hair of an image, the contrast asked for, and the digest of the image before.

    Without a digest only one thing is known: RemoveHair made the image in OUT.
    """

    hair: float
    contrast: str
    source: str


class HairTable:
    """The rows by image. Threads may record at once.

    Args:
        file: The table, which need not exist.
        contrast: The contrast of this run.
        overwrite: Treat all images again; the rows then only show that RemoveHair made the images in OUT.

    Raises ValueError for another program's file, and, unless `overwrite`, for rows of another contrast.
    """

    def __init__(self, file: Path, contrast: float, overwrite: bool) -> None:
        self.file, self.contrast = file, f"{contrast:g}"
        self.rows = _read(file)
        self._lock = Lock()
        if overwrite:
            self.rows = {name: Treated(row.hair, self.contrast, "") for name, row in self.rows.items()}
        if other := sorted({row.contrast for row in self.rows.values()} - {self.contrast}):
            raise ValueError(f"{file}: was made with --contrast {other[0]}: give the same, another OUT, or --overwrite")

    def record(self, name: str, hair: float, source: str) -> None:
        """Add a row, at once: a killed run has one for every image that it published."""
        with self._lock:
            self.rows[name] = Treated(hair, self.contrast, source)
            with self.file.open("a", newline="", encoding="utf-8", errors="surrogateescape") as lines:
                csv.writer(lines, lineterminator="\n").writerow(self._cells(name))

    def write(self) -> None:
        """Write all rows anew, one an image."""
        text = StringIO()
        csv.writer(text, lineterminator="\n").writerows([COLUMNS, *map(self._cells, self.rows)])
        write_text(self.file, text.getvalue())

    def _cells(self, name: str) -> tuple[Any, ...]:
        row = self.rows[name]
        return name, f"{row.hair:.5f}", row.contrast, row.source


def _read(file: Path) -> dict[str, Treated]:
    if not file.is_file():
        return {}
    try:
        with file.open(newline="", encoding="utf-8", errors="surrogateescape") as lines:
            rows = [row for row in csv.DictReader(lines) if row["contrast"]]  # a killed run may leave half a line
        return {row["image"]: Treated(float(row["hair"]), row["contrast"], row.get("source") or "") for row in rows}
    except (KeyError, ValueError, csv.Error):
        raise ValueError(f"{file}: is there, and not RemoveHair's: rename it, or choose another --outpath") from None
