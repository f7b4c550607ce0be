"""Whether two evaluations of the same cases differ by more than noise, case by case."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from utils.evaluation import statistics
from utils.evaluation.statistics import ROUNDING, SMALLEST, SMALLEST_MM, correct, ranks
from utils.evaluation.targets import other_targets
from utils.evaluation.volumes.scores import HIGHER_IS_BETTER


def compare(
    ours: Sequence[Mapping[str, Any]],
    theirs: Sequence[Mapping[str, Any]],
    scores: Sequence[str],
    names: tuple[str, str] = ("A", "B"),
) -> list[dict[str, Any]]:
    """A line a class and score: means, mean paired difference (ours - theirs), interval, p, effect and verdict, by the
    one rule. Each line is a comparison of its own: two evaluations are compared in it, so nothing is corrected.

    ours, theirs: rows of a case and class each, of the same cases and labels. A pair counts where both have the score.
    `effect`: rank-biserial correlation, from -1 (ours is lower in every patient) to 1; `low`, `high` and `p` are None
    where there is no interval. Raises ValueError when the rows are not of the same cases, classes and labels, or none
    has a score in both.
    """
    if found := other_targets(ours, theirs, names):
        raise ValueError(f"{found}: score both on the same labels")
    first, second = ({(row["case"], row["class"]): row for row in rows} for rows in (ours, theirs))
    lines, found = [], []
    for class_name in dict.fromkeys(row["class"] for row in ours):
        places = [place for place in first if place[1] == class_name]
        for score in scores:
            pairs = [(place, first[place].get(score), second[place].get(score)) for place in places]
            kept = [(place, one, other) for place, one, other in pairs if one is not None and other is not None]
            if not kept:
                continue
            mine, other = np.array([pair[1:] for pair in kept], np.float64).T
            patients = [first[place].get("patient", place[0]) for place, _, _ in kept]
            higher, smallest = HIGHER_IS_BETTER[score], SMALLEST_MM if score.endswith("_mm") else SMALLEST
            found.append(statistics.compare(mine[None], other[None], True, patients, higher, smallest=smallest))
            line = {"class": class_name, "score": score, "cases": len(kept), "left_out": len(pairs) - len(kept)}
            lines.append(line | {"mean": float(mine.mean()), "other_mean": float(other.mean())})
            lines[-1] |= _by_patient(mine - other, patients)
    if not lines:
        raise ValueError(f"no case has one of {', '.join(scores)} in both: compare others")
    for line, result in zip(lines, correct(found, range(len(found))), strict=True):
        figures = {"difference": result.mean, "low": result.low, "high": result.high, "p": result.p}
        line |= {name: figure if np.isfinite(figure) else None for name, figure in figures.items()}
        line |= {"p_holm": result.p_holm, "verdict": result.named(names[0])}
    return lines


def _by_patient(difference: np.ndarray, patients: Sequence[str]) -> dict[str, Any]:
    numbers = np.unique(patients, return_inverse=True)[1]
    means = np.bincount(numbers, difference) / np.bincount(numbers)
    changed = means[np.abs(means) > ROUNDING]
    weights = ranks(np.abs(changed))
    return {
        "effect": float((np.sign(changed) * weights).sum() / weights.sum()) if len(changed) else 0.0,
        "higher": int((difference > ROUNDING).sum()),
        "lower": int((difference < -ROUNDING).sum()),
        "patients_that_differ": len(changed),
    }
