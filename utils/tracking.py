"""What a person watches: TensorBoard scalars and pictures, and one history line an epoch."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.tensorboard import SummaryWriter

SHADES = np.array([[228, 26, 28], [55, 126, 184], [255, 217, 47], [77, 175, 74], [152, 78, 163]], np.float32) / 255
MISSED, FALSE_ALARM, RIGHT = np.array([[0.2, 0.5, 1.0], [1.0, 0.25, 0.2], [0.3, 0.85, 0.35]], np.float32)


class Tracker:
    """Writes to OUTPUT/tensorboard and OUTPUT/history.csv; silent on every process but the first."""

    def __init__(self, output: Path, active: bool, purge_step: int | None = None) -> None:
        self.writer = SummaryWriter(str(output / "tensorboard"), purge_step=purge_step) if active else None
        self.history = output / "history.csv"

    def scalars(self, values: dict[str, float], step: int) -> None:
        if self.writer:
            for name, value in values.items():
                self.writer.add_scalar(name, value, step)

    def picture(self, name: str, picture: NDArray[np.float32], step: int) -> None:
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


def draw_slice(
    image: NDArray[np.floating], target: NDArray[np.integer], prediction: NDArray[np.integer]
) -> NDArray[np.float32]:
    """One row of a picture: image, target, prediction and difference, side by side, (H, 4 W, 3) in 0..1.

    All are (H, W). In the difference, green is right, blue missed, red a false alarm or a wrong class.
    """
    low, high = float(image.min()), float(image.max())
    gray = np.repeat(((image - low) / max(high - low, 1e-6))[..., None], 3, axis=2).astype(np.float32)
    difference = gray.copy()
    for where, shade in (
        ((target > 0) & (prediction == target), RIGHT),
        ((target > 0) & (prediction == 0), MISSED),
        ((prediction > 0) & (prediction != target), FALSE_ALARM),
    ):
        difference[where] = 0.35 * difference[where] + 0.65 * shade
    row = np.concatenate([gray, _overlay(gray, target), _overlay(gray, prediction), difference], axis=1)
    enlarge = max(1, 192 // image.shape[0])
    return np.kron(row, np.ones((enlarge, enlarge, 1), np.float32))


def _overlay(gray: NDArray[np.float32], labels: NDArray[np.integer]) -> NDArray[np.float32]:
    overlay = gray.copy()
    inside = labels > 0
    overlay[inside] = 0.45 * overlay[inside] + 0.55 * SHADES[(labels[inside] - 1) % len(SHADES)]
    return overlay
