"""Whether two groups differ by more than noise: one rule, and the interval and p-value that it asks for.

Every command that prints "better", "worse" or "no measurable difference" calls `compare`, and `correct` where a table
holds several comparisons. `scripts/benchmarks/coverage.py` measures how often the intervals hold the truth.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

BETTER, WORSE, NOTHING, UNDEFINED = "better", "worse", "no measurable difference", "not defined"
ENOUGH = 6  # cases; a distribution's shape cannot be judged from fewer, and Student's t assumes one
SMALLEST = 0.005  # half a point of Dice: the same recipe with another seed differs by about as much on real data
SMALLEST_MM = 0.1  # of a distance in mm: less than any voxel
LEVEL = 0.05
RULE = (
    f"a difference counts when its 95 % interval excludes 0, it is {SMALLEST} or more (a distance: {SMALLEST_MM} mm), "
    f"at least {ENOUGH} cases differ, and its p stays below {LEVEL} after Holm's correction for all that the table "
    "compares with the same student in the same score"
)
INTERVAL = (
    "the interval counts seeds and cases (patients, where one has several cases) as drawn at random; with one seed it "
    "counts cases only, and speaks of these two sets of weights, not of training again"
)
ROUNDING = 1e-12  # of a mean of scores in double precision
MOST_BLOCKS = 200  # of images left out in turn


@dataclass(frozen=True)
class Comparison:
    """A difference of two groups: mean, 95 % interval, p, verdict, why no more can be claimed, and by seed."""

    mean: float
    low: float
    high: float
    p: float
    verdict: str
    why: str = ""
    seeds: tuple[float, ...] = ()
    p_holm: float | None = None

    @property
    def words(self) -> str:
        if self.verdict == UNDEFINED:
            return f"{UNDEFINED}: {self.why}"
        return f"{self.verdict} ({self.why})" if self.why else self.verdict

    def named(self, name: str) -> str:
        """The verdict as a sentence about the group of this name."""
        return f"{name} is {self.words}" if self.verdict in (BETTER, WORSE) else self.words


def compare(
    ours: NDArray[np.floating],
    theirs: NDArray[np.floating],
    same_seeds: bool = True,
    patients: Sequence[str] | None = None,
    higher_is_better: bool = True,
    unit: str = "cases",
    smallest: float = SMALLEST,
) -> Comparison:
    """The one rule (`RULE`, `INTERVAL`) for ours - theirs.

    Args:
        ours: scores by seed and case (S, N). A score that is not a mean over cases gives its `jackknife` values.
        theirs: scores (R, N) of the same cases in the same places.
        same_seeds: a row of both is one seed, so that its difference is paired; else each group's seeds count apart.
            One seed against one is a pair in any case.
        patients: the patient of each case; the cases of one patient count as one unit.
        unit: what to call the columns.
        smallest: difference of interest; a smaller one is never better or worse.
    """
    if ours.shape[1] != theirs.shape[1]:
        raise ValueError(f"{ours.shape[1]} and {theirs.shape[1]} {unit}: compare scores of the same {unit}")
    paired = same_seeds or len(ours) == len(theirs) == 1
    mean, low, high, p = interval([ours - theirs] if paired else [ours, theirs], patients)
    by_seed = ours.mean(1) - (theirs.mean(1) if paired else theirs.mean())
    by_case = by_patient((ours.mean(0) - theirs.mean(0))[None], patients, center=False)[0]
    if patients is not None and len(set(patients)) < len(patients):
        unit = "patients"
    differing = int((np.abs(by_case) > ROUNDING).sum())
    return judge((mean, low, high, p), differing, by_seed.tolist(), unit, higher_is_better, smallest)


def judge(
    found: tuple[float, float, float, float],
    differing: int,
    seeds: Sequence[float] = (),
    unit: str = "cases",
    higher_is_better: bool = True,
    smallest: float = SMALLEST,
) -> Comparison:
    """The verdict of a mean difference, the ends of its interval and its p; `differing` units are not equal."""
    mean, low, high, p = found
    verdict, why = NOTHING, ""
    if not np.isfinite(mean):
        verdict, why = UNDEFINED, f"the score needs several {unit} of each class"
    elif not np.isfinite(found).all():
        verdict, why = UNDEFINED, f"too few {unit} for an interval"
    elif differing < ENOUGH:
        why = f"{unit} that differ: {differing}, at least {ENOUGH} are needed"
    elif p < LEVEL and abs(mean) < smallest:
        why = f"less than {smallest}"
    elif p < LEVEL:
        verdict = BETTER if (mean > 0) == higher_is_better else WORSE
    return Comparison(mean, low, high, p, verdict, why, tuple(seeds))


def correct(comparisons: Sequence[Comparison], families: Sequence[Hashable] | None = None) -> list[Comparison]:
    """The comparisons of a table after Holm's correction: a claim that does not survive it is withdrawn.

    families: what each comparison belongs to, such as a student and a score; those of one family are corrected
    together. All are one family where it is left out.
    """
    families = [None] * len(comparisons) if families is None else list(families)
    defined = [number for number, found in enumerate(comparisons) if found.verdict != UNDEFINED]
    corrected = list(comparisons)
    for family in dict.fromkeys(families):
        members = [number for number in defined if families[number] == family]
        for number, p_holm in zip(members, holm([comparisons[each].p for each in members]), strict=True):
            found = replace(comparisons[number], p_holm=p_holm)
            if found.verdict != NOTHING and p_holm >= LEVEL:
                why = f"{found.verdict} if taken alone, not as one of {len(members)}"
                found = replace(found, verdict=NOTHING, why=why)
            corrected[number] = found
    return corrected


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction of several p-values."""
    order = np.argsort(p, kind="stable")
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(np.maximum.accumulate(np.array(p)[order] * np.arange(len(p), 0, -1)), 1.0)
    return corrected.tolist()


def interval(
    groups: Sequence[NDArray[np.floating]], patients: Sequence[str] | None = None
) -> tuple[float, float, float, float]:
    """Mean, ends of its 95 % interval, and p of a mean of 0: of one group (S, N), or of the first less the second.

    NaN where the score is not defined, or there is one case only.
    """
    units = [by_patient(group, patients) for group in groups]
    mean = float(groups[0].mean() - (groups[1].mean() if len(groups) > 1 else 0))
    if not np.isfinite(mean) or units[0].shape[1] < 2:
        return mean, float("nan"), float("nan"), float("nan")
    variances, degrees = variance_terms(units)
    error = float(np.sqrt(variances.sum()))
    if error < ROUNDING:
        return mean, mean, mean, float(abs(mean) < ROUNDING)
    half = error * float(critical(variances, degrees))
    return mean, mean - half, mean + half, float(p_value(abs(mean) / error, variances, degrees))


def by_patient(
    scores: NDArray[np.floating], patients: Sequence[str] | None, center: bool = True
) -> NDArray[np.floating]:
    """Scores (S, N) by case as scores (S, U) by patient, with the same mean over each seed.

    A patient of many cases weighs as many: the deviations of its cases from the mean are summed (center), as for the
    variance of a ratio. Where each patient has one case the scores stay as they are.
    """
    if patients is None:
        return scores
    numbers = np.unique(np.asarray(patients), return_inverse=True)[1]
    mean = scores.mean() if center else 0.0
    sums = np.stack([np.bincount(numbers, row - mean) for row in scores])
    return mean + sums * sums.shape[1] / scores.shape[1]


def variance_terms(groups: Sequence[NDArray[np.floating]]) -> tuple[NDArray[np.floating], NDArray[np.integer]]:
    """What the variance of a mean (of the difference of two groups' means) is a sum of, (..., T), and its degrees of
    freedom (T,): a term for the seeds of each group, and one for the cases.

    Two-way random effects: the score of seed s and case c is mean + seed + case + rest. In mean squares the variance of
    the mean is (MS_seed + MS_case - MS_rest) / (S C). MS_case holds one MS_rest too many, so it is taken off there, and
    not below 0. Leading dimensions of the groups (..., S, C) are so many experiments. A group of one seed has no spread
    of seeds: it is taken to be the other's, and where neither has one, only cases count.
    """
    cases = groups[0].shape[-1]
    several = [group for group in groups if group.shape[-2] > 1]
    terms, degrees, rest = [], [], 0.0
    for group in several:
        seeds = group.shape[-2]
        weight = 1 / seeds + len(groups) - len(several)
        by_seed = group.mean(-1)
        residual = group - by_seed[..., None] - (group.mean(-2) - by_seed.mean(-1, keepdims=True))[..., None, :]
        terms.append(weight * by_seed.var(-1, ddof=1))
        degrees.append(seeds - 1)
        rest = rest + weight * np.square(residual).sum((-2, -1)) / ((seeds - 1) * (cases - 1) * cases)
    by_case = groups[0].mean(-2) - (groups[1].mean(-2) if len(groups) > 1 else 0)
    terms.append(np.maximum(by_case.var(-1, ddof=1) / cases - rest, 0))
    return np.stack(terms, -1), np.array([*degrees, cases - 1])


def p_value(
    ratio: NDArray[np.floating] | float, variances: NDArray[np.floating], degrees: NDArray[np.integer]
) -> NDArray[np.floating]:
    """Two-sided p of |mean| / standard error, where the variance is a sum of terms of different degrees of freedom.

    The mean of two approximations: Student's t with Satterthwaite's degrees of freedom, which is right for many degrees
    and too narrow for few, and the terms' own p-values weighted by their variances, which errs to the safe side. With
    one term both are Student's t.
    """
    shares = variances / variances.sum(-1, keepdims=True)
    pooled = 1 / (np.square(shares) / degrees).sum(-1)
    ratio = np.asarray(ratio)
    return stdtr(pooled, -ratio) + (shares * stdtr(degrees, -ratio[..., None])).sum(-1)


def critical(variances: NDArray[np.floating], degrees: NDArray[np.integer]) -> NDArray[np.floating]:
    """Half of the 95 % interval in standard errors: where `p_value` is 0.05, by bisection."""
    low = np.zeros(variances.shape[:-1])
    high = low + stdtrit(float(degrees.min()), 1 - LEVEL / 2)
    for _ in range(40):
        middle = (low + high) / 2
        inside = p_value(middle, variances, degrees) > LEVEL
        low, high = np.where(inside, middle, low), np.where(inside, high, middle)
    return high


def ranks(values: NDArray[np.floating]) -> NDArray[np.floating]:
    """Ranks from 1 of values (N,), equal ones sharing their mean: what `scipy.stats` takes a second to import for."""
    ordered = np.sort(values)
    return (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right") + 1) / 2


def jackknife(
    score: Callable[[NDArray[np.bool_]], float], count: int, patients: Sequence[str] | None = None
) -> NDArray[np.floating]:
    """A score of all of `count` images as values by block of images, of which it is the mean.

    score: of the images where a mask (count,) is true. A value says how the score falls when its block is left out: an
    image, or a patient with all its images; several of them, drawn once, where there are more than `MOST_BLOCKS`. The
    spread of the values is that of the score over images, so that `compare` treats an AUROC as it treats a Dice. NaN
    where the score is not defined, or not without one of the blocks.
    """
    numbers = np.arange(count) if patients is None else np.unique(np.asarray(patients), return_inverse=True)[1]
    units = numbers.max() + 1
    blocks = min(units, MOST_BLOCKS)
    block = (np.random.default_rng(0).permutation(units) % blocks if units > blocks else np.arange(units))[numbers]
    whole = score(np.ones(count, bool))
    without = np.array([score(block != number) for number in range(blocks)])
    return whole + (blocks - 1) * (without.mean() - without)
