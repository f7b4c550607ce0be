"""What a person watches: TensorBoard scalars and pictures, and one line of history.csv an epoch."""

from __future__ import annotations

import csv
import os
import socket
import statistics
import time
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import image, scalar

from datasets.files import write_text

RATE = "train/images_per_second"


class Tracker:
    """Writes TensorBoard events and history.csv into OUTPUT; silent on every process but the first.

    Events of an earlier session from `first_step` on are hidden: this one writes them again. torch's own writer has a
    thread that hangs on a full disk and loses at a kill what a checkpoint says was done; here events are on disk when
    `flush` returns. Raises OSError naming the file that cannot be written, and ValueError for a damaged history.csv.
    """

    def __init__(self, output: Path, active: bool, first_step: int = 0) -> None:
        self.history = output / "history.csv"
        self._file = None
        self._rates: list[float] = []  # images per second since the last epoch
        if active:
            self._rows = _read_history(self.history)
            name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
            self._path = output / name
            self._file = self._path.open("wb")
            self._records = RecordWriter(self._file)
            self._write(Event(file_version="brain.Event:2"))
            self._write(Event(step=first_step, session_log=SessionLog(status=SessionLog.START)))

    def scalars(self, values: dict[str, float], step: int) -> None:
        self._rates += [values[RATE]] if RATE in values else []
        for name, value in values.items():
            self._summary(scalar(name, value), step)

    def picture(self, name: str, picture: np.ndarray, step: int) -> None:
        self._summary(image(name, picture, dataformats="HWC"), step)

    def epoch(self, row: dict[str, Any]) -> None:
        """Appends to history.csv, with the median of the images per second; an epoch repeated after a resume replaces
        its earlier line."""
        if self._file is None:
            return
        rate = f"{statistics.median(self._rates):.1f}" if self._rates else ""
        row, self._rates = row | {"images_per_second": rate}, []
        self._rows = [*(old for old in self._rows if int(old["epoch"]) < row["epoch"]), row]
        text = StringIO()
        table = csv.DictWriter(text, list(dict.fromkeys(key for line in self._rows for key in line)))
        table.writeheader()
        table.writerows(self._rows)
        write_text(self.history, text.getvalue())

    def flush(self) -> None:
        if self._file is not None:
            self._on_disk(self._file.flush)

    def close(self) -> None:
        if self._file is not None:
            self._on_disk(self._file.close)

    def _summary(self, summary: Summary, step: int) -> None:
        if self._file is not None:
            self._write(Event(step=step, summary=summary))

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._on_disk(self._records.write, event.SerializeToString())

    def _on_disk(self, work: Any, *arguments: Any) -> None:
        try:
            work(*arguments)
        except OSError as error:
            error.filename = error.filename or str(self._path)
            raise


def _read_history(file: Path) -> list[dict[str, Any]]:
    """The lines of an earlier session."""
    if not file.is_file():
        return []
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            rows = list(csv.DictReader(lines))
        if all(row["epoch"].isdigit() and None not in row for row in rows):
            return rows
    except (ValueError, KeyError, AttributeError, csv.Error):
        pass
    raise ValueError(f"{file}: does not hold a line an epoch, as the run wrote it: put it back, or move it away")
