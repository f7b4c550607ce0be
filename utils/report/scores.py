"""Figures of the score tables: axes of the drawn intervals, distances and lesions, classes, confusion."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from utils.evaluation.drawing import row_shares
from utils.evaluation.pictures import confusion_counts
from utils.prediction.latency import Timing
from utils.report.charts import Axis, interval_axis
from utils.report.facts import Report
from utils.report.gains import Estimate
from utils.report.latency import precision_of, timed_names
from utils.runs.groups import Group
from utils.runs.run import Run

SURFACES = {
    "surface_dice": ("surface Dice", 3),
    "hd95_mm": ("HD95 mm", 2),
    "assd_mm": ("ASSD mm", 2),
    "voe": ("VOE", 3),
    "abs_rvd": ("|RVD|", 3),
    "lesion_f1": ("lesion F1", 3),
}
CLASS_SCORES = {"recall": "recall", "precision": "precision", "f1": "F1", "auroc": "AUROC"}


@dataclass(frozen=True)
class ConfusionRow:
    """Images of one target class: (answer, images, share of the row) for each answer."""

    target: str
    answers: list[tuple[str, int, float]]


def ends(estimate: Estimate) -> tuple[float, float, float]:
    return estimate.mean, estimate.low, estimate.high


def score_axis(report: Report) -> Axis:
    """An axis that holds every group's first score."""
    return interval_axis([ends(report.estimates[group.name, report.names[0]]) for group in report.groups])


def gain_axis(report: Report) -> Axis:
    """An axis that holds 0 and every gain in the first score."""
    return interval_axis([ends(gain.estimate) for gain in report.firsts], zero=True)


def surface_rows(groups: Sequence[Group]) -> Iterator[tuple[str, str, list[tuple[str, str]]]]:
    """Group, class, and each mean over the cases where it exists, with how many those are where some are missing.

    Only of the groups that scripts/evaluate.py has scored.
    """
    for group in groups:
        rows = [row for run in group.runs for row in run.surfaces or ()]
        for class_name in dict.fromkeys(row["class"] for row in rows):
            mine = [row for row in rows if row["class"] == class_name]
            yield group.name, class_name, [_mean(mine, key, digits) for key, (_, digits) in SURFACES.items()]


def _mean(rows: Sequence[dict[str, Any]], key: str, digits: int) -> tuple[str, str]:
    values = [row[key] for row in rows if row.get(key) is not None]
    some = f"({len(values)} of {len(rows)})" if 0 < len(values) < len(rows) else ""
    return f"{np.mean(values):.{digits}f}" if values else "", some


def volume_times(report: Report) -> dict[str, dict[str, Timing]]:
    """Of each precision the timing of each group's network on the CPU."""
    names, found = timed_names(report.groups), {}
    for timing in report.timed.get("cpu", []):
        for group in report.groups:
            if timing.name == names[group.name]:
                found.setdefault(precision_of(timing), {})[group.name] = timing
    return found


def class_rows(groups: Sequence[Group]) -> Iterator[tuple[str, int, list[float | None]]]:
    """Class, its images, and its recall, precision, F1 and AUROC of each group, means over seeds."""
    first = groups[0].first
    for number, name in enumerate(first.class_names):
        cells = []
        for score in CLASS_SCORES:
            for group in groups:
                values = [run.scores[key] for run in group.runs if (key := f"{score}/{name}") in run.scores]
                cells.append(float(np.mean(values)) if values else None)
        yield name, sum(row["target"] == number for row in first.rows), cells


def confusion_rows(run: Run) -> list[ConfusionRow]:
    """A run's answers by target."""
    counts = confusion_counts(run.rows, run.class_names)
    lines = zip(run.class_names, counts.tolist(), row_shares(counts).tolist(), strict=True)
    return [ConfusionRow(name, list(zip(run.class_names, *line, strict=True))) for name, *line in lines]
