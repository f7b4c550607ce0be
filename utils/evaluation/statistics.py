"""Whether two groups differ by more than noise: intervals of a difference, and the one rule that puts them in words.

Every command that says "better", "worse" or "no measurable difference" asks `judge`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

BETTER, WORSE, NOTHING, UNDEFINED = "better", "worse", "no measurable difference", "not defined"
ENOUGH = 6  # fewer pairs cannot reach p < 0.05 in a signed-rank test (two-sided): 2 / 2^5 is 0.063
SMALLEST = 0.001  # of any score: less is rounding, even where it is in every case
RULE = (
    f"a difference counts when its 95 % interval excludes 0, all seeds agree in its sign, it is {SMALLEST} or more, "
    f"and at least {ENOUGH} cases differ"
)
INTERVAL = (
    "the interval of one seed is Student's t over cases (over patients, where a patient has several), that of more "
    "seeds a bootstrap over seeds and cases"
)
ROUNDING = 1e-12  # of a mean of scores in double precision
RESAMPLES = 10_000
DEFINED = 0.95  # the least share of resamples in which a score is defined


@dataclass(frozen=True)
class Comparison:
    """A difference of two groups: mean, 95 % interval, by seed, the verdict, and why nothing (more) can be claimed."""

    mean: float
    low: float
    high: float
    verdict: str
    why: str = ""
    seeds: tuple[float, ...] = ()

    @property
    def words(self) -> str:
        if self.verdict == UNDEFINED:
            return f"{UNDEFINED}: {self.why}"
        return f"{self.verdict} ({self.why})" if self.why else self.verdict


def judge(
    interval: tuple[float, float, float],
    differing: int,
    seeds: Sequence[float] = (),
    unit: str = "cases",
    higher_is_better: bool = True,
    undefined: str = "its interval is not defined",
) -> Comparison:
    """The one rule (`RULE`): what a difference with this interval is called.

    Args:
        interval: mean of ours - theirs, and the ends of its 95 % interval.
        differing: number of cases (or whatever was resampled, see `unit`) in which the two differ.
        seeds: the difference by seed.
        undefined: the reason to give where the interval is not a number.
    """
    mean, low, high = interval
    seeds = tuple(seeds)
    if not np.isfinite(interval).all():
        return Comparison(mean, low, high, UNDEFINED, undefined, seeds)
    why = ""
    if differing < ENOUGH:
        why = f"{unit} that differ: {differing}, a claim needs {ENOUGH}"
    elif low <= 0 <= high:
        return Comparison(mean, low, high, NOTHING, "", seeds)
    elif abs(mean) < SMALLEST:
        why = f"less than {SMALLEST}"
    elif any(seed * mean <= 0 for seed in seeds):
        why = "seeds differ in sign"
    if why:
        return Comparison(mean, low, high, NOTHING, why, seeds)
    return Comparison(mean, low, high, BETTER if (mean > 0) == higher_is_better else WORSE, "", seeds)


def case_interval(values: NDArray[np.floating], patients: Sequence[str] | None = None) -> tuple[float, float, float]:
    """Mean of values by case (N,) and its 95 % interval, Student's t; NaN where there is one case.

    Cases of one patient are alike: the deviations of patients' sums are taken then, with patients - 1 degrees of
    freedom. Where each patient has one case both are the same.
    """
    numbers = np.arange(len(values)) if patients is None else np.unique(patients, return_inverse=True)[1]
    sums, counts = np.bincount(numbers, values), np.bincount(numbers)
    mean, many = float(values.mean()), len(sums)
    if many < 2:
        return mean, float("nan"), float("nan")
    if np.ptp(values) == 0:
        return (float(values[0]),) * 3
    error = np.sqrt(many / (many - 1) * np.square(sums - mean * counts).sum()) / len(values)
    half = float(t.ppf(0.975, many - 1) * error)
    return mean, mean - half, mean + half


def draws(
    seeds: int, others: int | None, cases: int, resamples: int = RESAMPLES, seed: int = 0
) -> Iterator[tuple[NDArray[np.integer], NDArray[np.integer], NDArray[np.integer]]]:
    """Numbers of seeds, of the other group's seeds, and of cases, drawn with replacement, one fewer of each than there
    are (Rao and Wu, 1988): as many would make the variance of n seeds (n - 1) / n of what it is, too small by a third
    for three. others: None where the other group has the same seeds, which are then drawn together.
    """
    generator = np.random.default_rng(seed)
    for _ in range(resamples):
        rows = generator.integers(seeds, size=max(seeds - 1, 1))
        theirs = rows if others is None else generator.integers(others, size=max(others - 1, 1))
        yield rows, theirs, generator.integers(cases, size=max(cases - 1, 1))


def quantiles(values: Sequence[float] | NDArray[np.floating]) -> tuple[float, float]:
    """The ends of a 95 % percentile interval."""
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)


def difference_interval(
    ours: NDArray[np.floating],
    theirs: NDArray[np.floating],
    same_seeds: bool,
    patients: Sequence[str] | None = None,
) -> tuple[float, float, float]:
    """Mean of ours - theirs and its 95 % interval (`INTERVAL`), from scores by seed and case.

    ours (S, N), theirs (R, N): the same case in the same place; where same_seeds also the same seed.
    """
    if len(ours) == len(theirs) == 1:
        return case_interval(ours[0] - theirs[0], patients)
    drawn = draws(len(ours), None if same_seeds else len(theirs), ours.shape[1])
    means = [ours[np.ix_(rows, cases)].mean() - theirs[np.ix_(other, cases)].mean() for rows, other, cases in drawn]
    return float(ours.mean() - theirs.mean()), *quantiles(means)


def compare(
    ours: NDArray[np.floating],
    theirs: NDArray[np.floating],
    same_seeds: bool = True,
    patients: Sequence[str] | None = None,
    higher_is_better: bool = True,
) -> Comparison:
    """Compare scores that are a mean over cases, from ours (S, N) and theirs (R, N) by seed and case."""
    interval = difference_interval(ours, theirs, same_seeds, patients)
    differing = count_differing(ours.mean(0) - theirs.mean(0), patients)
    unit = "cases" if patients is None else "patients"
    seeds = by_seed(ours.mean(1), theirs.mean(1), same_seeds)
    return judge(interval, differing, seeds, unit, higher_is_better, f"one of the {unit} has no interval")


def count_differing(difference: NDArray[np.floating], patients: Sequence[str] | None = None) -> int:
    """Number of cases, or patients, in which a difference by case (N,) is not 0 (rounding left aside)."""
    numbers = np.arange(len(difference)) if patients is None else np.unique(patients, return_inverse=True)[1]
    return int((np.abs(np.bincount(numbers, difference)) > ROUNDING).sum())


def by_seed(ours: Sequence[float], theirs: Sequence[float], same_seeds: bool) -> list[float]:
    """Differences seed by seed; where the groups have other seeds, from the other's mean."""
    paired = theirs if same_seeds else [float(np.mean(theirs))] * len(ours)
    return [float(own - base) for own, base in zip(ours, paired, strict=True)]


def bootstrap(
    measure: Callable[[NDArray[np.integer]], float], count: int, resamples: int, seed: int = 0
) -> tuple[float, float, float]:
    """Ends of the 95 % interval of a score of all of `count` images, over resampled images, and the share of the
    resamples in which it is defined. NaN where that is under 95 %: what is left is of other images.
    """
    generator = np.random.default_rng(seed)
    values = np.array([measure(generator.integers(count, size=count)) for _ in range(resamples)])
    defined = values[np.isfinite(values)]
    share = len(defined) / resamples
    return (*quantiles(defined), share) if share >= DEFINED else (float("nan"), float("nan"), share)
