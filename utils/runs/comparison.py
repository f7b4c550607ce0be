"""Two groups of runs compared in one score, from the rows of their test results.

The classification scores here are those of utils/metrics, which asks scikit-learn, written to be computed again
without each image; tests hold them equal. Where all images are of one class, areas are not defined: NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils.evaluation import statistics
from utils.evaluation.kind import IMAGES, Kind, kind_of_rows
from utils.evaluation.metrics.partial_auc import partial_auc
from utils.evaluation.statistics import Comparison, jackknife, ranks

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
    areas = []
    for number in range(probability.shape[1]):
        members = target == number
        inside, outside = int(members.sum()), int((~members).sum())
        if inside and outside:
            above = ranks(probability[:, number])[members].sum()
            areas.append((above - inside * (inside + 1) / 2) / (inside * outside))
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


def score_names(kind: Kind, class_names: Sequence[str]) -> list[str]:
    """The scores that runs of a kind are compared by."""
    if kind is not IMAGES:
        return [MEAN_DICE]
    return [score for score in SCORES if score != "pAUC" or len(class_names) == 2]


def case_dice(runs: Sequence[Sequence[Mapping[str, Any]]], class_name: str | None = None) -> dict[str, float]:
    """Dice of each case, averaged over runs (seeds), of one class or (None) the mean of all; a run is its rows."""
    values: dict[str, list[float]] = {}
    for rows in runs:
        for row in rows:
            if class_name in (None, row["class"]):
                values.setdefault(row["case"], []).append(row["dice"])
    return {case: float(np.mean(dice)) for case, dice in values.items()}


def values_of(runs: Sequence[Rows], score: str) -> tuple[NDArray[np.floating], list[str]]:
    """What the one rule compares: a score by run and case (S, N), and the patient of each case.

    score: one of `SCORES`, `MEAN_DICE`, or the Dice of the class of this name. A run is its rows, a seed; all runs have
    the cases of the first, in its order of names. A score of all images is split into its `jackknife` values, which
    have no patients any more.
    """
    patients = {row["case"]: row.get("patient", row["case"]) for row in runs[0]}
    cases = sorted(patients)
    if kind_of_rows(runs[0]) is not IMAGES:
        dice = [case_dice([rows], None if score == MEAN_DICE else score) for rows in runs]
        return np.array([[run[case] for case in cases] for run in dice]), [patients[case] for case in cases]
    values = []
    for rows in runs:
        by_case = {row["case"]: row for row in rows}
        probability = np.array([by_case[case]["probability"] for case in cases])
        target = np.array([by_case[case]["target"] for case in cases])
        values.append(split_score(SCORES[score], probability, target, [patients[case] for case in cases]))
    return np.array(values), [str(number) for number in range(len(values[0]))]


def split_score(
    score: Score, probability: NDArray[np.floating], target: NDArray[np.integer], patients: Sequence[str]
) -> NDArray[np.floating]:
    """A score of all images as `jackknife` values, of which it is the mean."""
    return jackknife(lambda kept: score(probability[kept], target[kept]), len(target), patients)


def compare_runs(ours: Sequence[Rows], theirs: Sequence[Rows], score: str, same_seeds: bool) -> Comparison:
    """Ours - theirs in one score by the one rule, see `values_of`; where same_seeds runs are in the order of seeds."""
    (first, patients), (second, _) = values_of(ours, score), values_of(theirs, score)
    unit = "cases"
    if kind_of_rows(ours[0]) is IMAGES:
        unit = "images" if len({row.get("patient", row["case"]) for row in ours[0]}) == len(ours[0]) else "patients"
    return statistics.compare(first, second, same_seeds, patients, unit=unit)


def conclude(what: str, found: Comparison, cases: int, name: str, other: str) -> str:
    """One line: the difference, its interval, by seed, and what to conclude."""
    if not np.isfinite(found.mean):
        return f"{name} - {other}: {what} is {found.words}"
    ends = f"[{found.low:+.3f}, {found.high:+.3f}]" if np.isfinite(found.low) else "not defined"
    seeds = ", ".join(f"{seed:+.3f}" for seed in found.seeds)
    by_seed = f"; by seed {seeds}" if len(found.seeds) > 1 else f", one seed of {name}"
    difference = f"{found.mean:+.3f} {what}, 95 % interval {ends} over {cases} cases{by_seed}"
    return f"{name} - {other}: {difference}: {found.named(name)}"


def spread(values: Sequence[float]) -> str:
    """Mean, and the standard deviation over seeds where there are several."""
    if not np.isfinite(values).all():
        return statistics.UNDEFINED
    mean = f"{np.mean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):.3f}"
