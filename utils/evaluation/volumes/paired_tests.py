"""Whether two evaluations of the same cases differ by more than noise, case by case."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata, wilcoxon

from utils.evaluation import statistics
from utils.evaluation.statistics import BETTER, INTERVAL, WORSE
from utils.evaluation.volumes.scores import HIGHER_IS_BETTER
from utils.runs.results import other_targets

LEVEL = 0.05
RULE = (
    f"{statistics.RULE}; {INTERVAL}. Of many lines one in twenty differs by chance: where p (Wilcoxon's signed-rank "
    f"test of patients' means) is not < {LEVEL} after Holm's correction for all lines, the verdict says so"
)


def compare(
    ours: Sequence[Mapping[str, Any]],
    theirs: Sequence[Mapping[str, Any]],
    scores: Sequence[str],
    names: tuple[str, str] = ("A", "B"),
) -> list[dict[str, Any]]:
    """A line a class and score: means, mean paired difference (ours - theirs), interval, test, effect and verdict.

    ours, theirs: rows of a case and class each, of the same cases and labels. A pair counts where both have the score.
    `effect`: rank-biserial correlation, from -1 (ours is lower in every patient) to 1; `low` and `high` are None where
    there is no interval. Raises ValueError when the rows are not of the same cases, classes and labels, or none has a
    score in both.
    """
    if found := other_targets(ours, theirs, names):
        raise ValueError(f"{found}: score both on the same labels")
    first, second = ({(row["case"], row["class"]): row for row in rows} for rows in (ours, theirs))
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
                lines.append(line | _test(values, patients, score, names))
    if not lines:
        raise ValueError(f"no case has one of {', '.join(scores)} in both: compare others")
    for line, corrected in zip(lines, holm([line["p"] for line in lines]), strict=True):
        line["p_holm"] = corrected
        if line["verdict"].startswith(names[0]) and line["p_holm"] >= LEVEL and len(lines) > 1:
            line["verdict"] += f", if this line is taken alone (not as one of {len(lines)})"
    return lines


def _test(values: NDArray[np.float64], patients: Sequence[str], score: str, names: tuple[str, str]) -> dict[str, Any]:
    difference = values[:, 0] - values[:, 1]
    found = statistics.compare(values[None, :, 0], values[None, :, 1], True, patients, HIGHER_IS_BETTER[score])
    numbers = np.unique(patients, return_inverse=True)[1]
    means = np.bincount(numbers, difference) / np.bincount(numbers)
    changed = means[means != 0]
    ranks = rankdata(np.abs(changed))
    return {
        "mean": float(values[:, 0].mean()),
        "other_mean": float(values[:, 1].mean()),
        "difference": found.mean,
        "low": found.low if np.isfinite(found.low) else None,
        "high": found.high if np.isfinite(found.high) else None,
        "p": float(wilcoxon(changed).pvalue) if len(changed) else 1.0,
        "effect": float((np.sign(changed) * ranks).sum() / ranks.sum()) if len(changed) else 0.0,
        "higher": int((difference > 0).sum()),
        "lower": int((difference < 0).sum()),
        "patients_that_differ": len(changed),
        "verdict": f"{names[0]} is {found.words}" if found.verdict in (BETTER, WORSE) else found.words,
    }


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction of several p-values."""
    order = np.argsort(p, kind="stable")
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(np.maximum.accumulate(np.array(p)[order] * np.arange(len(p), 0, -1)), 1.0)
    return corrected.tolist()
