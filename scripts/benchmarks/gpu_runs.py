"""Trainings that share a device, as a leaderboard starts them, and how fast a training was."""

from __future__ import annotations

import csv
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scripts.benchmarks.gpu_use import Watched
from utils.leaderboard.execution import Slots, execute
from utils.leaderboard.plan import PlannedRun
from utils.recipe.schema import ROOT


def rate(run: Path) -> float:
    """Images per second of a training's steps: the median of its epochs but the first, which captures the step."""
    with (run / "history.csv").open(newline="") as file:
        rates = [float(row["images_per_second"]) for row in csv.DictReader(file)]
    return statistics.median(rates[1:] or rates)


def at_once(count: int, folder: Path, config: str, flags: Sequence[str]) -> dict[str, Any]:
    """So many trainings by one recipe, with their images per second summed. Raises ValueError where one fails."""
    config = str(ROOT / "configs" / f"{config}.yaml")
    runs = [
        PlannedRun(f"{number}", folder / f"{number}", "train.py", (config,), (*flags, f"--seed={number}"))
        for number in range(count)
    ]
    started = time.perf_counter()
    with Watched() as watched:
        ended = execute(runs, lambda _run: {}, Slots(count), lambda _finished: None)
    if problems := [finished.problem for finished in ended if finished.problem]:
        raise ValueError(f"{count} trainings at once: {problems[0]}")
    row = {"trainings": count, "images/s of all": sum(rate(run.folder) for run in runs)}
    return row | {"all s": time.perf_counter() - started} | watched.found()
