"""Two groups of runs compared in one score, from the rows of their test results.

The classification scores here are those of utils/metrics, which asks scikit-learn, written to be resampled a thousand
times; tests hold them equal. Where all images are of one class, areas are not defined: NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from utils.evaluation import statistics
from utils.evaluation.metrics.partial_auc import partial_auc
from utils.evaluation.statistics import Comparison

Rows = Sequence[Mapping[str, Any]]
MEAN_DICE = "mean Dice"
Score = Callable[[NDArray[np.floating], NDArray[np.integer]], float]


def accuracy(probability: NDArray[np.floating], target: NDArray[np.integer]) -> float:
    """Fraction of N images whose most probable class is the target: probability (N, K), target (N,)."""
    return float(np.mean(probability.argmax(1) == target))


def balanced_accuracy(probability: NDArray[np.floating], target: NDArray[np.integer]) -> float:
    """Mean over the classes that have an image of the fraction of its images that are right."""
    right = probability.argmax(1) == target
    return float(np.mean([right[target == number].mean() for number in np.unique(target)]))


def auroc(probability: NDArray[np.floating], target: NDArray[np.integer]) -> float:
    """Area under the ROC curve, one class against the rest, mean over classes with both; of class 1 where K is 2.

    The share of (image of the class, other image) pairs in the right order, from ranks; ties count half.
    """
    if probability.shape[1] == 2:
        probability, target = probability[:, 1:], target - 1
    ranks = rankdata(probability, axis=0)
    areas = []
    for number in range(probability.shape[1]):
        members = target == number
        inside, outside = int(members.sum()), int((~members).sum())
        if inside and outside:
            areas.append((ranks[members, number].sum() - inside * (inside + 1) / 2) / (inside * outside))
    return float(np.mean(areas)) if areas else float("nan")


def _partial_auc(probability: NDArray[np.floating], target: NDArray[np.integer]) -> float:
    return partial_auc(probability[:, 1], target) if len(np.unique(target)) == 2 else float("nan")


SCORES: dict[str, Score] = {
    "accuracy": accuracy,
    "balanced accuracy": balanced_accuracy,
    "AUROC": auroc,
    "pAUC": _partial_auc,
}
KEYS = {"accuracy": "accuracy", "balanced accuracy": "balanced_accuracy", "AUROC": "auroc", "pAUC": "partial_auc"}


def case_dice(runs: Sequence[Sequence[Mapping[str, Any]]], class_name: str | None = None) -> dict[str, float]:
    """Dice of each case, averaged over runs (seeds), of one class or (None) the mean of all; a run is its rows."""
    values: dict[str, list[float]] = {}
    for rows in runs:
        for row in rows:
            if class_name in (None, row["class"]):
                values.setdefault(row["case"], []).append(row["dice"])
    return {case: float(np.mean(dice)) for case, dice in values.items()}


def probabilities(rows: Sequence[Mapping[str, Any]]) -> tuple[NDArray[np.floating], NDArray[np.integer]]:
    """Probability (N, K) and target (N,) of a run's images, by name of the image."""
    rows = sorted(rows, key=lambda row: row["case"])
    return np.array([row["probability"] for row in rows]), np.array([row["target"] for row in rows])


def compare_runs(ours: Sequence[Rows], theirs: Sequence[Rows], score: str, same_seeds: bool) -> Comparison:
    """Ours - theirs in one score: one of `SCORES`, `MEAN_DICE`, or the Dice of the class of this name.

    Runs are their rows, a run a seed, of the same cases and targets; where same_seeds in the same order of seeds. The
    interval of Dice is over cases and seeds, that of a score of all images over resampled images with the seeds fixed.
    """
    if "probability" in ours[0][0]:
        return _compare_answers(SCORES[score], ours, theirs, same_seeds)
    class_name = None if score == MEAN_DICE else score
    cases = list(case_dice(ours[:1], class_name))

    def by_case(rows: Rows) -> list[float]:
        dice = case_dice([rows], class_name)
        return [dice[case] for case in cases]

    scores = (np.array([by_case(rows) for rows in group]) for group in (ours, theirs))
    return statistics.compare(*scores, same_seeds)


def _compare_answers(score: Score, ours: Sequence[Rows], theirs: Sequence[Rows], same_seeds: bool) -> Comparison:
    target = probabilities(ours[0])[1]
    answers = [[probabilities(rows)[0] for rows in group] for group in (ours, theirs)]
    mean, low, high, share = resampled_interval(score, *answers, target)
    seeds = by_seed(*([score(run, target) for run in group] for group in answers), same_seeds)
    undefined = f"{1 - share:.0%} of the resamples of {len(target)} images hold one class only"
    if not np.isfinite(mean):
        undefined = f"all {len(target)} images are of one class"
    ours_mean, theirs_mean = (np.mean(group, axis=0) for group in answers)
    differing = int((ours_mean != theirs_mean).any(1).sum())
    return judge((mean, low, high), differing, seeds, "images", undefined=undefined)


def resampled_interval(
    score: Score,
    ours: Sequence[NDArray[np.floating]],
    theirs: Sequence[NDArray[np.floating]],
    target: NDArray[np.integer],
    resamples: int = 1000,
) -> tuple[float, float, float, float]:
    """Difference of the mean scores of two groups, its 95 % bootstrap interval over test images, and the share of the
    resamples in which it is defined.

    `ours` and `theirs` hold a probability (N, K) a seed, for the same images. Every resample draws the same images for
    all of them, so what is common to both cancels.
    """

    def difference(where: NDArray[np.integer]) -> float:
        means = [np.mean([score(run[where], target[where]) for run in group]) for group in (ours, theirs)]
        return float(means[0] - means[1])

    mean = difference(np.arange(len(target)))
    if not np.isfinite(mean):
        return mean, mean, mean, 0.0
    return mean, *statistics.bootstrap(difference, len(target), resamples)


def mean_interval(
    score: Score, answers: Sequence[NDArray[np.floating]], target: NDArray[np.integer], resamples: int = 500
) -> tuple[float, float]:
    """95 % interval over images of the mean score of several seeds; NaN where it is not defined."""

    def mean(where: NDArray[np.integer]) -> float:
        return float(np.mean([score(probability[where], target[where]) for probability in answers]))

    return statistics.bootstrap(mean, len(target), resamples)[:2]


def conclude(what: str, found: Comparison, cases: int, name: str, other: str) -> str:
    """One line: the difference, its interval, by seed, and what to conclude."""
    if not np.isfinite(found.mean):
        return f"{name} - {other}: {what} is {found.words}"
    ends = f"[{found.low:+.3f}, {found.high:+.3f}]" if np.isfinite(found.low) else "not defined"
    by_seed = f"; by seed {', '.join(f'{seed:+.3f}' for seed in found.seeds)}" if len(found.seeds) > 1 else ", one seed"
    verdict = f"{name} is {found.words}" if found.verdict in (statistics.BETTER, statistics.WORSE) else found.words
    return f"{name} - {other}: {found.mean:+.3f} {what}, 95 % interval {ends} over {cases} cases{by_seed}: {verdict}"


def spread(values: Sequence[float]) -> str:
    """Mean, and the standard deviation over seeds where there are several."""
    if not np.isfinite(values).all():
        return statistics.UNDEFINED
    mean = f"{np.mean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):.3f}"
