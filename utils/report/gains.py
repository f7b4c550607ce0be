"""Scores of groups of runs with their 95 % intervals, and what distillation gained, paired by seed and case."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from utils.evaluation.statistics import BETTER, UNDEFINED, WORSE, Comparison, correct, interval
from utils.runs.comparison import KEYS, MEAN_DICE, compare_runs, score_names, values_of
from utils.runs.groups import Group
from utils.runs.run import Run


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and cases, NaN where not defined, and its 95 % interval; `seeds`: the mean of each seed."""

    mean: float
    low: float
    high: float
    seeds: tuple[float, ...]


@dataclass(frozen=True)
class Gain:
    """Group minus control in one score: what the one rule found."""

    group: str
    control: str
    score: str
    estimate: Comparison
    cases: int

    @property
    def verdict(self) -> str:
        return self.estimate.verdict

    @property
    def why(self) -> str:
        """Why no more can be claimed; often empty."""
        return self.estimate.why

    @property
    def sign(self) -> int:
        """1 better, -1 worse, 0 no measurable difference."""
        return {BETTER: 1, WORSE: -1}.get(self.verdict, 0)


def scores_shown(run: Run) -> list[str]:
    """What the page compares runs by, the most important first; for volumes each class, too."""
    names = score_names(run.kind, run.class_names)
    if names == [MEAN_DICE]:
        return names + (run.class_names if len(run.class_names) > 1 else [])
    return sorted(names, key=lambda name: KEYS[name] != run.selects)


def estimate(group: Group, score: str) -> Estimate:
    """The group's score, with the interval of the one rule: seeds and cases count as drawn."""
    runs = [run.rows for run in group.runs]
    values, patients = values_of(runs, score)
    mean, low, high, _ = interval([values], patients)
    return Estimate(mean, float(np.maximum(low, 0.0)), float(np.minimum(high, 1.0)), tuple(values.mean(1).tolist()))


def correct_gains(gains: Sequence[Gain]) -> list[Gain]:
    """The gains of a page, those over one control in one score corrected for their number."""
    corrected = correct([gain.estimate for gain in gains], [(gain.control, gain.score) for gain in gains])
    return [replace(gain, estimate=found) for gain, found in zip(gains, corrected, strict=True)]


def gain(group: Group, control: Group, score: str) -> Gain:
    """What distillation gained in one score, paired by case, of runs that `of_one_dataset` kept.

    Raises ValueError where one was scored on test and the other on val, or the score is not defined.
    """
    if {run.split for run in group.runs} != {run.split for run in control.runs}:
        raise ValueError(f"{group.name} and {control.name}: one was scored on test, the other on val: not compared")
    same_seeds = group.seeds == control.seeds or len(group.runs) == len(control.runs) == 1
    found = compare_runs([run.rows for run in group.runs], [run.rows for run in control.runs], score, same_seeds)
    if found.verdict == UNDEFINED:
        raise ValueError(f"{group.name} and {control.name}: the gain in {score} is {found.words}: not compared")
    return Gain(group.name, control.name, score, found, len({row["case"] for row in group.first.rows}))
