"""What a prediction costs from file to file: seconds of each stage and memory, of several networks side by side."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.prediction.outputs import RECORD
from utils.recipe.schema import ROOT

STAGES = ("read", "preprocess", "network", "postprocess", "write")


@dataclass(frozen=True)
class Candidate:
    """What predict.py is asked to run: a checkpoint or exported file, and its precision."""

    name: str
    file: Path
    precision: str = "32-true"


@dataclass(frozen=True)
class Timing:
    """What one volume costs a candidate: medians of `seconds` by stage and of their sum, the highest peak memory."""

    name: str
    precision: str
    file_bytes: int
    slices: int
    seconds: dict[str, float]
    total_s: float
    peak_memory_mb: float

    @property
    def floor_s(self) -> float:
        """Reading and writing alone: what no network can go below."""
        return self.seconds["read"] + self.seconds["write"]


def measure(
    candidates: Sequence[Candidate],
    volume: Path,
    repeats: int = 3,
    threads: int | None = None,
    device: str = "cpu",
    advance: Callable[[int], Any] = lambda count: None,
) -> tuple[list[Timing], list[str]]:
    """Predict `volume` with each candidate in turn, `repeats` times, each time in a process of its own.

    Returns the timings, and a line for each candidate that could not be timed.

    threads: of PyTorch and ONNX Runtime (default: one a core).
    """
    entries: dict[Candidate, list[dict[str, Any]]] = {candidate: [] for candidate in candidates}
    problems: list[str] = []
    for _ in range(repeats):
        for candidate in list(entries):
            try:
                entries[candidate].append(_predict(candidate, volume, threads, device))
            except ValueError as error:
                problems.append(str(error))
                del entries[candidate]
            advance(1)
    return [_timing(candidate, mine) for candidate, mine in entries.items()], problems


def _predict(candidate: Candidate, volume: Path, threads: int | None, device: str) -> dict[str, Any]:
    """The record that predict.py leaves of the volume."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = dict(os.environ) | {"PYTHONPATH": path} | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    with tempfile.TemporaryDirectory(prefix="latency-") as folder:
        command = [
            sys.executable,
            "-m",
            "utils.prediction.run",
            "--checkpoint",
            candidate.file,
            "--input",
            volume,
            "--output",
            folder,
        ]
        command += ["--precision", candidate.precision, "--device", device]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
            raise ValueError(f"{candidate.file}: could not be timed: {' '.join(last)}")
        (entry,) = json.loads((Path(folder) / RECORD).read_text())["cases"].values()
    return entry


def _timing(candidate: Candidate, entries: Sequence[dict[str, Any]]) -> Timing:
    seconds = {stage: statistics.median(entry["seconds"][stage] for entry in entries) for stage in STAGES}
    file = candidate.file / "best.ckpt" if candidate.file.is_dir() else candidate.file
    return Timing(
        name=candidate.name,
        precision=candidate.precision,
        file_bytes=file.stat().st_size,
        slices=entries[0]["slices"],
        seconds=seconds,
        total_s=statistics.median(sum(entry["seconds"].values()) for entry in entries),
        peak_memory_mb=max(entry["peak_memory_mb"] for entry in entries),
    )
