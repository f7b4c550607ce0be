"""What a person watches: TensorBoard scalars and pictures, and one line of history.csv an epoch."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.tensorboard import SummaryWriter


class Tracker:
    """Writes TensorBoard events and history.csv into OUTPUT; silent on every process but the first.

    Events from `purge_step` on are hidden: a resumed run writes them again.
    """

    def __init__(self, output: Path, active: bool, purge_step: int | None = None) -> None:
        self.writer = SummaryWriter(str(output), purge_step=purge_step) if active else None
        self.history = output / "history.csv"

    def scalars(self, values: dict[str, float], step: int) -> None:
        if self.writer:
            for name, value in values.items():
                self.writer.add_scalar(name, value, step)

    def picture(self, name: str, picture: np.ndarray, step: int) -> None:
        if self.writer:
            self.writer.add_image(name, picture, step, dataformats="HWC")

    def epoch(self, row: dict[str, Any]) -> None:
        """Appends to history.csv; an epoch repeated after a resume replaces its earlier line."""
        if not self.writer:
            return
        rows = []
        if self.history.is_file():
            with self.history.open(newline="") as file:
                rows = [old for old in csv.DictReader(file) if int(old["epoch"]) < row["epoch"]]
        columns = list(dict.fromkeys(key for line in (*rows, row) for key in line))
        temporary = self.history.with_suffix(".tmp")
        with temporary.open("w", newline="") as file:
            table = csv.DictWriter(file, columns)
            table.writeheader()
            table.writerows([*rows, row])
        temporary.replace(self.history)
        self.writer.flush()

    def close(self) -> None:
        if self.writer:
            self.writer.close()
