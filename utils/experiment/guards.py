"""What is checked of a teacher before it may teach: whom it has seen, what, and whether its recorded score is true."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from datasets.findings import listed
from utils.evaluation.kind import SLICES, kind_of
from utils.experiment.resuming import changed_cases
from utils.recipe.contracts import Metric
from utils.training import checkpoints

SAME_INPUT = ("modality", "spacing", "slice_spacing", "window", "task", "class_names")
SAME_INPUT += ("image_size", "in_channels", "mean", "std")
TOLERANCE = 0.05  # Dice or probability: room for another precision or device, not for other weights or slices


def refuse_leak(teacher: dict[str, Any], split: dict[str, Any], path: str) -> None:
    """Raises ValueError when the teacher was trained on the student's val or test patients, or selected on its test."""
    theirs = teacher["split"]
    try:
        checkpoints.patients_of(theirs, path)
    except ValueError as error:
        raise ValueError(f"{error}, or give --allow_leak to go on without knowing of a leak") from None
    refuse_shared(theirs, split, f"{path}: the teacher's")


def refuse_shared(theirs: Mapping[str, Sequence[str]], split: Mapping[str, Any], whose: str) -> None:
    """Raises ValueError when a teacher's train patients are in val or test of `split`, or its val patients in test."""
    for seen, held_out in (("train", "val"), ("train", "test"), ("val", "test")):
        if shared := sorted(set(theirs[seen]) & set(split[held_out])):
            raise ValueError(
                f"{whose} {seen} patients include {len(shared)} of the student's {held_out} patients "
                f"({listed(shared)}); use the same split file for both, or --allow_leak to go on"
            )


def refuse_other_input(teacher: dict[str, Any], preprocessing: dict[str, Any], path: str) -> None:
    """Raises ValueError when the teacher was trained on other images or classes than the student will see.

    It may look at other numbers of neighboring slices, but not at other distances between them.
    """
    has_neighbors = [bool(each.get("neighbors")) for each in (teacher["preprocessing"], preprocessing)]
    keys = [key for key in SAME_INPUT if key != "in_channels" or kind_of(preprocessing) is not SLICES]
    for key in keys + ["neighbor_mm"] * all(has_neighbors):
        theirs, ours = (_plain(each.get(key)) for each in (teacher["preprocessing"], preprocessing))
        if theirs != ours:
            raise ValueError(
                f"{path}: the teacher was trained with {key} {theirs}, the student's data has {ours}; "
                "give both the same data section, or train a teacher on this data"
            )


def refuse_other_content(teacher: dict[str, Any], cases: Mapping[str, Sequence[str]], path: str) -> None:
    """Raises ValueError when cases of the same name hold other images or labels than the teacher was trained on.

    cases: digests, see `datasets.fingerprints`; scans without labels may be called as others of the teacher's are.
    Teachers trained before checkpoints recorded them are let through.
    """
    labeled = {case: parts for case, parts in cases.items() if parts[1]}
    if changed := changed_cases(teacher.get("data", {}).get("cases", {}), labeled):
        raise ValueError(
            f"{path}: the teacher was trained on other data: {changed} since; train it again on these data, or give "
            "the student the data that it was trained on"
        )


def check_scores(
    rows: Sequence[dict[str, Any]],
    score_cases: Callable[[list[str]], list[dict[str, Any]]],
    cases: Sequence[str],
    metric: Metric,
    path: str,
) -> str:
    """Scores the teacher on a few val cases that its checkpoint has scores for, and compares.

    The means of `metric.case_score` are compared over up to `metric.check_cases` cases, spread over all of them: on a
    single small tumor a few voxels make all the difference.

    Args:
        rows: Those of the checkpoint, one for each case (and class).
        score_cases: Scores the rebuilt teacher.

    Returns a line to print. Raises ValueError when the means differ by more than 0.05, or the median case does: answers
    in another order have the same mean.
    """
    what = metric.case_score
    recorded = {(row["case"], row.get("class")): row[what] for row in rows if what in row}
    scored = {case for case, _ in recorded}
    known = [case for case in cases if case in scored]
    known = known[:: max(1, len(known) // metric.check_cases)][: metric.check_cases]
    if not recorded:
        return "teacher: its checkpoint has no scores of cases, so none was checked"
    if not known:
        return "teacher: none of its val cases is among the student's, so its recorded score was not checked"
    again = [row for row in score_cases(known) if (row["case"], row.get("class")) in recorded]
    now = sum(row[what] for row in again) / len(again)
    then = sum(recorded[row["case"], row.get("class")] for row in again) / len(again)
    on = ", ".join(known) if len(known) <= 3 else f"{len(known)} val cases"
    means = f"mean {what.replace('_', ' ')}"
    apart = statistics.median(abs(row[what] - recorded[row["case"], row.get("class")]) for row in again)
    if abs(now - then) > TOLERANCE or apart > TOLERANCE:
        raise ValueError(
            f"{path}: scores {now:.4f} {means} on {on} but its checkpoint says {then:.4f} (the median case is "
            f"{apart:.4f} apart); are these "
            "the images it was trained on? last.ckpt may hold weights newer than its scores: give best.ckpt"
        )
    return f"teacher: scored again on {on}: {now:.4f} {means}, its checkpoint says {then:.4f}"


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
