"""Whether two groups of runs differ by more than noise: paired by test case, and over seeds.

The classification scores here are those of utils/metrics, which asks scikit-learn, written to be resampled a thousand
times; tests hold them equal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata, ttest_1samp

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
    return float(np.mean(areas))


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


def by_seed(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Differences seed by seed; where the groups have not as many, from the other's mean."""
    paired = theirs if len(theirs) == len(ours) else [float(np.mean(theirs))] * len(ours)
    return [own - base for own, base in zip(ours, paired, strict=True)]


def case_interval(difference: NDArray[np.floating]) -> tuple[float, float, float]:
    """Mean of the differences by case (N,) and its 95 % interval (Student's t)."""
    if np.ptp(difference) == 0:
        return (float(difference[0]),) * 3
    low, high = ttest_1samp(difference, 0).confidence_interval()
    return float(difference.mean()), float(low), float(high)


def resampled_interval(
    score: Score,
    ours: Sequence[NDArray[np.floating]],
    theirs: Sequence[NDArray[np.floating]],
    target: NDArray[np.integer],
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Difference of the mean scores of two groups, and its 95 % bootstrap interval over test images.

    `ours` and `theirs` hold a probability (N, K) a seed, for the same images. Every resample draws the same images for
    all of them, so what is common to both cancels.
    """
    generator = np.random.default_rng(seed)

    def difference(where: NDArray[np.integer]) -> float:
        means = [np.mean([score(run[where], target[where]) for run in group]) for group in (ours, theirs)]
        return float(means[0] - means[1])

    draws = [difference(generator.integers(len(target), size=len(target))) for _ in range(resamples)]
    low, high = np.quantile(draws, (0.025, 0.975))
    return difference(np.arange(len(target))), float(low), float(high)


def conclude(
    what: str, interval: tuple[float, float, float], seeds: Sequence[float], cases: int, name: str, other: str
) -> str:
    """One line: the difference, its interval, by seed, and what to conclude.

    A difference counts when the interval excludes zero and every seed agrees in sign.
    """
    mean, low, high = interval
    agree = all(seed > 0 for seed in seeds) or all(seed < 0 for seed in seeds)
    measurable = agree and (low > 0 or high < 0)
    verdict = f"{name} is {'better' if mean > 0 else 'worse'}" if measurable else "no measurable difference"
    by_seed = f"; by seed {', '.join(f'{seed:+.3f}' for seed in seeds)}" if len(seeds) > 1 else ", one seed"
    return (
        f"{name} - {other}: {mean:+.3f} {what}, 95 % interval [{low:+.3f}, {high:+.3f}] over {cases} cases"
        f"{by_seed}: {verdict}"
    )


def spread(values: Sequence[float]) -> str:
    """Mean, and the standard deviation over seeds where there are several."""
    mean = f"{np.mean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):.3f}"
