"""Scores of groups of runs with 95 % intervals over test cases, and what distillation gained, paired by case."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from utils.evaluation.statistics import BETTER, UNDEFINED, WORSE, case_interval
from utils.runs.comparison import KEYS, MEAN_DICE, SCORES, case_dice, compare_runs, mean_interval, probabilities
from utils.runs.groups import Group
from utils.runs.results import other_data
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
    """Group minus control of one score: the estimate, the verdict, and why no more can be claimed."""

    group: str
    control: str
    score: str
    estimate: Estimate
    cases: int
    verdict: str
    why: str = ""

    @property
    def sign(self) -> int:
        """1 better, -1 worse, 0 no measurable difference."""
        return {BETTER: 1, WORSE: -1}.get(self.verdict, 0)


def score_names(run: Run) -> list[str]:
    """What the runs are compared by, the most important first."""
    if run.classifies:
        names = [name for name in SCORES if name != "pAUC" or len(run.class_names) == 2]
        return sorted(names, key=lambda name: KEYS[name] != run.selects)
    return [MEAN_DICE, *run.class_names] if len(run.class_names) > 1 else [MEAN_DICE]


def estimate(group: Group, score: str) -> Estimate:
    """The group's score: Student's t over cases for Dice, a bootstrap over images for scores of all images."""
    if group.first.classifies:
        values = [probabilities(run.rows) for run in group.runs]
        seeds = tuple(SCORES[score](*value) for value in values)
        low, high = mean_interval(SCORES[score], [probability for probability, _ in values], values[0][1])
        return Estimate(float(np.mean(seeds)), low, high, seeds)
    cases = case_dice([run.rows for run in group.runs], _class_of(score))
    mean, low, high = case_interval(np.array(list(cases.values())))
    seeds = tuple(float(np.mean(list(case_dice([run.rows], _class_of(score)).values()))) for run in group.runs)
    return Estimate(mean, float(np.maximum(low, 0.0)), float(np.minimum(high, 1.0)), seeds)


def _class_of(score: str) -> str | None:
    return None if score == MEAN_DICE else score


def gain(group: Group, control: Group, score: str) -> Gain:
    """What distillation gained in one score, paired by case.

    Raises ValueError where the cases or targets are not the same, or the score is not defined.
    """
    if {run.split for run in group.runs} != {run.split for run in control.runs}:
        raise ValueError(f"{group.name} and {control.name}: one was scored on test, the other on val: not compared")
    first = group.first
    for run in (*group.runs, *control.runs):
        if found := other_data(first.result, run.result, (str(first.folder), str(run.folder))):
            raise ValueError(f"{group.name} and {control.name}: {found}: not compared; test both on the same data")
    same_seeds = group.seeds == control.seeds or len(group.runs) == len(control.runs) == 1
    found = compare_runs([run.rows for run in group.runs], [run.rows for run in control.runs], score, same_seeds)
    if found.verdict == UNDEFINED:
        raise ValueError(f"{group.name} and {control.name}: the gain in {score} is {found.words}: not compared")
    cases = len({row["case"] for row in first.rows})
    value = Estimate(found.mean, found.low, found.high, found.seeds)
    return Gain(group.name, control.name, score, value, cases, found.verdict, found.why)
