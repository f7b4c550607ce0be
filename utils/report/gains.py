"""Scores of groups of runs with 95 % intervals over test cases, and what distillation gained, paired by case."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from utils.comparison import (
    accuracy,
    auroc,
    balanced_accuracy,
    by_seed,
    case_dice,
    case_interval,
    conclude,
    probabilities,
    resampled_interval,
)
from utils.metrics.partial_auc import partial_auc
from utils.report.groups import Group
from utils.report.runs import Run

MEAN_DICE = "mean Dice"
NOTHING = "no measurable difference"


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and cases and its 95 % interval over cases; `seeds`: the mean of each seed."""

    mean: float
    low: float
    high: float
    seeds: tuple[float, ...]


@dataclass(frozen=True)
class Gain:
    """Group minus control of one score: the estimate, and the conclusion in words."""

    group: str
    control: str
    score: str
    estimate: Estimate
    cases: int
    verdict: str

    @property
    def sign(self) -> int:
        """1 better, -1 worse, 0 no measurable difference."""
        return 0 if self.verdict == NOTHING else 1 if self.estimate.mean > 0 else -1


def score_names(run: Run) -> list[str]:
    """What the runs are compared by, the most important first."""
    if run.classifies:
        names = {"accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "auroc": "AUROC"}
        if len(run.class_names) == 2:
            names["partial_auc"] = "pAUC"
        return [names[key] for key in sorted(names, key=lambda key: key != run.selects)]
    return [MEAN_DICE, *run.class_names] if len(run.class_names) > 1 else [MEAN_DICE]


def estimate(group: Group, score: str) -> Estimate:
    """The group's score: Student's t over cases for Dice, a bootstrap over images for scores of all images."""
    if group.first.classifies:
        measure = _classification_score(score)
        values = [probabilities(run.rows) for run in group.runs]
        seeds = tuple(measure(*value) for value in values)
        low, high = _bootstrap(measure, [probability for probability, _ in values], values[0][1])
        return Estimate(float(np.mean(seeds)), low, high, seeds)
    cases = _case_dice(group, score)
    mean, low, high = case_interval(np.array(list(cases.values()))) if len(cases) > 1 else (*cases.values(),) * 3
    return Estimate(mean, max(low, 0.0), min(high, 1.0), _seed_means(group, score))


def gain(group: Group, control: Group, score: str) -> Gain:
    """What distillation gained in one score, paired by case. Raises ValueError when the cases are not the same."""
    if {run.split for run in group.runs} != {run.split for run in control.runs}:
        raise ValueError(f"{group.name} and {control.name}: one was scored on test, the other on val: not compared")
    if group.first.classifies:
        measure = _classification_score(score)
        named = [sorted(row["case"] for row in run.rows) for run in (*group.runs, *control.runs)]
        _refuse_other_cases(all(names == named[0] for names in named), group, control)
        target = probabilities(group.first.rows)[1]
        _refuse_other_cases(
            all((probabilities(run.rows)[1] == target).all() for run in (*group.runs, *control.runs)), group, control
        )
        ours, theirs = ([probabilities(run.rows)[0] for run in each.runs] for each in (group, control))
        interval, cases = resampled_interval(measure, ours, theirs, target), len(target)
        means = [[measure(probability, target) for probability in each] for each in (ours, theirs)]
    else:
        ours, theirs = _case_dice(group, score), _case_dice(control, score)
        _refuse_other_cases(ours.keys() == theirs.keys(), group, control)
        difference = np.array([ours[case] - theirs[case] for case in ours])
        if len(difference) < 2:
            raise ValueError(f"{group.name} and {control.name}: one case is too few for an interval: not compared")
        interval, cases = case_interval(difference), len(ours)
        means = [_seed_means(each, score) for each in (group, control)]
    if not np.isfinite(interval).all():
        raise ValueError(f"{group.name} and {control.name}: too few images for an interval of {score}: not compared")
    seeds = by_seed(*means)
    line = conclude(score, interval, seeds, cases, group.name, control.name)
    verdict = next((word for word in (NOTHING, "better", "worse") if line.endswith(word)), NOTHING)
    return Gain(group.name, control.name, score, Estimate(*interval, tuple(seeds)), cases, verdict)


def _case_dice(group: Group, score: str) -> dict[str, float]:
    return case_dice([run.rows for run in group.runs], None if score == MEAN_DICE else score)


def _seed_means(group: Group, score: str) -> tuple[float, ...]:
    alone = (Group(group.name, group.role, (run,)) for run in group.runs)
    return tuple(float(np.mean(list(_case_dice(each, score).values()))) for each in alone)


def _classification_score(score: str) -> Callable[[NDArray[np.floating], NDArray[np.integer]], float]:
    return {
        "accuracy": accuracy,
        "balanced accuracy": balanced_accuracy,
        "AUROC": auroc,
        "pAUC": lambda probability, target: partial_auc(probability[:, 1], target),
    }[score]


def _bootstrap(
    measure: Callable[[NDArray[np.floating], NDArray[np.integer]], float],
    answers: Sequence[NDArray[np.floating]],
    target: NDArray[np.integer],
    resamples: int = 500,
) -> tuple[float, float]:
    """95 % interval over images of the mean score of several seeds."""
    generator = np.random.default_rng(0)
    draws = []
    for _ in range(resamples):
        where = generator.integers(len(target), size=len(target))
        draws.append(np.mean([measure(probability[where], target[where]) for probability in answers]))
    low, high = np.nanquantile(draws, (0.025, 0.975))  # a draw of one class only has no area under a curve
    return float(low), float(high)


def _refuse_other_cases(same: bool, group: Group, control: Group) -> None:
    if not same:
        raise ValueError(f"{group.name} and {control.name}: not scored on the same cases: not compared")
