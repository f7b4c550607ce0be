"""What a prediction costs from file to file, networks side by side: seconds of each stage, memory; and its Dice."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from datasets.volumes.reading import read_label
from datasets.volumes.scans import RECORD
from utils.prediction.outputs import LABELS
from utils.recipe.schema import ROOT
from utils.runs.models import network_file

STAGES = ("read", "preprocess", "network", "postprocess", "write")  # of every prediction
ALL_STAGES = ("read", "locate", *STAGES[1:])


@dataclass(frozen=True)
class Candidate:
    """What predict.py is asked to run: a run, checkpoint or export, its precision, engine and locator."""

    name: str
    file: Path
    precision: str = "32-true"
    engine: str = "auto"
    locate: Path | None = None


@dataclass(frozen=True)
class Timing:
    """What one volume costs a candidate: medians of `seconds` by stage and of their sum, the highest peak memory.

    precision: what it computed in. engine: what ran it. dice: by class, where there was a truth.
    """

    name: str
    precision: str
    file_bytes: int
    slices: int
    seconds: dict[str, float]
    total_s: float
    peak_memory_mb: float
    engine: str = "torch"
    dice: dict[str, float] = field(default_factory=dict)

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
    truth: Path | None = None,
) -> tuple[list[Timing], list[str]]:
    """Predict `volume` with each candidate in turn, `repeats` times, each time in a process of its own.

    Returns the timings, and a line for each candidate that could not be timed.

    threads: of PyTorch and the other engines (default: one a core). truth: labels of the volume, on its grid, in the
    numbers of the candidates' classes.
    """
    entries: dict[Candidate, list[dict[str, Any]]] = {candidate: [] for candidate in candidates}
    problems: list[str] = []
    for _ in range(repeats):
        for candidate in list(entries):
            try:
                entries[candidate].append(_predict(candidate, volume, threads, device, truth))
            except ValueError as error:
                problems.append(str(error))
                del entries[candidate]
            advance(1)
    return [_timing(candidate, mine) for candidate, mine in entries.items()], problems


def _predict(
    candidate: Candidate, volume: Path, threads: int | None, device: str, truth: Path | None
) -> dict[str, Any]:
    """The record that predict.py leaves of the volume, with the Dice of each class if there is a truth."""
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
        command += ["--engine", candidate.engine, *(["--locate", candidate.locate] if candidate.locate else [])]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
            raise ValueError(f"{candidate.file}: could not be timed: {' '.join(last)}")
        ((case, entry),) = json.loads((Path(folder) / RECORD).read_text())["cases"].items()
        if truth is not None:
            entry["dice"] = dice_of(Path(folder) / f"{case}{LABELS}", truth, entry["classes"])
    return entry


def dice_of(prediction: Path, truth: Path, classes: Mapping[str, str]) -> dict[str, float]:
    """Dice of each class of a label file, by name; 1 for a class that is in neither. classes: names by number.

    Raises ValueError for a truth that is not a label volume of the same shape.
    """
    ours, theirs = read_label(prediction).array, read_label(truth)
    if theirs.problem:
        raise ValueError(f"{truth}: {theirs.problem}: {theirs.remedy}")
    if ours.shape != theirs.array.shape:
        raise ValueError(f"{truth}: shape {theirs.array.shape} is not {ours.shape} of the volume: give its own labels")
    scores = {}
    for number, name in classes.items():
        mine, wanted = ours == int(number), theirs.array == int(number)
        both = np.count_nonzero(mine) + np.count_nonzero(wanted)
        scores[name] = 2 * np.count_nonzero(mine & wanted) / both if both else 1.0
    return scores


def _timing(candidate: Candidate, entries: Sequence[dict[str, Any]]) -> Timing:
    stages = [stage for stage in ALL_STAGES if stage in STAGES or stage in entries[0]["seconds"]]
    seconds = {stage: statistics.median(entry["seconds"][stage] for entry in entries) for stage in stages}
    last = entries[-1]
    engine, precision = last["engines"][0], candidate.precision
    if engine != "torch":
        precision = "int8" if "int8" in last["formats"][0] else "fp32"
    return Timing(
        name=candidate.name,
        precision=precision,
        file_bytes=network_file(candidate.file).stat().st_size,
        slices=last["slices"],
        seconds=seconds,
        total_s=statistics.median(sum(entry["seconds"].values()) for entry in entries),
        peak_memory_mb=max(entry["peak_memory_mb"] for entry in entries),
        engine=engine,
        dice=last.get("dice", {}),
    )
