"""Whether two evaluations of the same cases differ by more than noise, case by case."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata, wilcoxon

from utils.scoring.volumes import HIGHER_IS_BETTER

ENOUGH = 6  # fewer pairs cannot reach p < 0.05 (two-sided): 2 / 2^5 is 0.063
LEVEL = 0.05
SMALLEST = 0.001  # of any score: less is of rounding, even where it is in every case
RULE = (
    f"a difference counts when it is {SMALLEST} or more, its 95 % bootstrap interval (percentiles; patients are "
    "resampled with their cases) excludes 0, its Wilcoxon signed-rank test (of patients' means) has "
    f"p < {LEVEL}, and at least {ENOUGH} patients differ; of many lines one in twenty would by chance, so it is told "
    f"where p is not < {LEVEL} after Holm's correction for all lines"
)


def compare(
    ours: Sequence[Mapping[str, Any]],
    theirs: Sequence[Mapping[str, Any]],
    scores: Sequence[str],
    names: tuple[str, str] = ("A", "B"),
    resamples: int = 10_000,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """A line a class and score: means, mean paired difference (ours - theirs), interval, test, effect and verdict.

    ours, theirs: rows of a case and class each, of the same cases and labels. A pair counts where both have the score.
    `effect`: rank-biserial correlation, from -1 (ours is lower in every patient) to 1. Raises ValueError when the rows
    are not of the same cases, classes and labels, or none has a score in both.
    """
    first, second = (_by_place(rows) for rows in (ours, theirs))
    _refuse_other_labels(first, second, names)
    lines = []
    for class_name in dict.fromkeys(row["class"] for row in ours):
        places = [place for place in first if place[1] == class_name]
        for score in scores:
            pairs = [(place, first[place].get(score), second[place].get(score)) for place in places]
            kept = [(place, one, other) for place, one, other in pairs if one is not None and other is not None]
            if kept:
                values = np.array([(one, other) for _, one, other in kept], np.float64)
                patients = [first[place].get("patient", place[0]) for place, _, _ in kept]
                line = {"class": class_name, "score": score, "cases": len(kept), "left_out": len(pairs) - len(kept)}
                lines.append(line | _test(values, patients, resamples, seed))
    if not lines:
        raise ValueError(f"no case has one of {', '.join(scores)} in both: compare others")
    for line, corrected in zip(lines, holm([line["p"] for line in lines]), strict=True):
        line["p_holm"] = corrected
        line["verdict"] = _verdict(line, names, len(lines))
    return lines


def _by_place(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], Mapping[str, Any]]:
    return {(row["case"], row["class"]): row for row in rows}


def _refuse_other_labels(first: Mapping, second: Mapping, names: tuple[str, str]) -> None:
    if other := sorted(first.keys() ^ second.keys()):
        case, class_name = other[0]
        owner = names[0] if other[0] in first else names[1]
        raise ValueError(
            f"{names[0]} and {names[1]} were not scored on the same cases and classes ({len(other)} are in one only, "
            f"such as {case}, {class_name}, in {owner}): score both on the same labels"
        )
    for (case, class_name), row in first.items():
        voxels = row["target_voxels"], second[case, class_name]["target_voxels"]
        if voxels[0] != voxels[1]:
            raise ValueError(
                f"{case}, {class_name}: the target of {names[0]} has {voxels[0]} voxels, that of {names[1]} has "
                f"{voxels[1]}: score both on the same labels"
            )


def _test(values: NDArray[np.float64], patients: Sequence[str], resamples: int, seed: int) -> dict[str, Any]:
    difference = values[:, 0] - values[:, 1]
    low, high = bootstrap(difference, patients, resamples, seed)
    numbers = np.unique(patients, return_inverse=True)[1]
    means = np.bincount(numbers, difference) / np.bincount(numbers)
    changed = means[means != 0]
    ranks = rankdata(np.abs(changed))
    return {
        "mean": float(values[:, 0].mean()),
        "other_mean": float(values[:, 1].mean()),
        "difference": float(difference.mean()),
        "low": low,
        "high": high,
        "p": float(wilcoxon(changed).pvalue) if len(changed) else 1.0,
        "effect": float((np.sign(changed) * ranks).sum() / ranks.sum()) if len(changed) else 0.0,
        "higher": int((difference > 0).sum()),
        "lower": int((difference < 0).sum()),
        "patients_that_differ": len(changed),
    }


def bootstrap(
    difference: NDArray[np.float64], patients: Sequence[str], resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile interval of the mean difference by case (N,); a patient is drawn with all of its cases."""
    numbers = np.unique(patients, return_inverse=True)[1]
    sums, counts = np.bincount(numbers, difference), np.bincount(numbers)
    generator = np.random.default_rng(seed)
    means = np.empty(resamples)
    for start in range(0, resamples, 1000):  # 1000 draws of all patients at a time in memory
        drawn = generator.integers(len(sums), size=(min(1000, resamples - start), len(sums)))
        means[start : start + 1000] = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction of several p-values."""
    order = np.argsort(p, kind="stable")
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(np.maximum.accumulate(np.array(p)[order] * np.arange(len(p), 0, -1)), 1.0)
    return corrected.tolist()


def _verdict(line: Mapping[str, Any], names: tuple[str, str], lines: int) -> str:
    if line["patients_that_differ"] < ENOUGH:
        return (
            f"no measurable difference (patients that differ: {line['patients_that_differ']}, a claim needs {ENOUGH})"
        )
    if not (line["low"] > 0 or line["high"] < 0) or line["p"] >= LEVEL:
        return "no measurable difference"
    if abs(line["difference"]) < SMALLEST:
        return f"no measurable difference (less than {SMALLEST})"
    better = (line["difference"] > 0) == HIGHER_IS_BETTER[line["score"]]
    doubt = "" if line["p_holm"] < LEVEL else f", if this line is taken alone (not as one of {lines})"
    return f"{names[0]} is {'better' if better else 'worse'}{doubt}"
