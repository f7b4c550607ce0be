"""How fast a training was, from the times of its TensorBoard events, and trainings that share a device."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scripts.benchmarks.gpu_use import Watched
from utils.leaderboard.execution import Slots, execute
from utils.leaderboard.plan import PlannedRun
from utils.recipe.schema import ROOT
from utils.training.tracking import RATE


@dataclass(frozen=True)
class Course:
    """When a training had seen how many images: from the end of the first epoch's steps to that of the last one's.

    In between, as often as there are epochs, it validates, writes last.ckpt and starts an epoch. The first one is left
    out: it loads libraries and captures the step.

    Args:
        times: Seconds since 1970 at which it reported, (reports,).
        images: Seen until then, (reports,).
        step_s: Seconds of its steps alone.
    """

    times: np.ndarray
    images: np.ndarray
    step_s: float

    @property
    def speeds(self) -> dict[str, float]:
        """Images per second of all that it did, and of its steps alone."""
        images = self.images[-1] - self.images[0]
        return {"images/s": images / (self.times[-1] - self.times[0]), "images/s of the steps": images / self.step_s}


def course(run: Path, batch_size: int, epochs: int) -> Course:
    """The course of a finished training. Raises ValueError where it has no epoch but its first."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run), size_guidance={"scalars": 0})
    reports = events.Reload().Scalars(RATE)
    steps = (reports[-1].step + 1) // epochs
    timed = [report for report in reports if report.step >= steps - 1]
    if len(timed) < 2:
        raise ValueError(f"{run}: has only one epoch, which is not timed")
    images = batch_size * np.array([report.step + 1 for report in timed])
    step_s = (np.diff(images) / [report.value for report in timed[1:]]).sum()
    return Course(np.array([report.wall_time for report in timed]), images, float(step_s))


def together(courses: Sequence[Course]) -> tuple[float, float, float]:
    """Images per second of all trainings, and the time [begin, end] in which each of them trained.

    Between two reports a training is taken to go on evenly. Raises ValueError where there is no such time.
    """
    begin = max(each.times[0] for each in courses)
    end = min(each.times[-1] for each in courses)
    if begin >= end:
        raise ValueError("the trainings did not overlap: give them more epochs")
    images = sum(np.diff(np.interp([begin, end], each.times, each.images))[0] for each in courses)
    return images / (end - begin), begin, end


def at_once(
    count: int, folder: Path, config: str, flags: Sequence[str], batch_size: int, epochs: int
) -> dict[str, Any]:
    """So many trainings by one recipe, and what they do while all of them train. Raises ValueError where one fails."""
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
    speed, begin, end = together([course(run.folder, batch_size, epochs) for run in runs])
    row = {"trainings": count, "images/s of all": speed, "shared s": end - begin}
    return row | {"all s": time.perf_counter() - started} | watched.found(begin, end)
