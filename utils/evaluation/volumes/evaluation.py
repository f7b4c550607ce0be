"""An evaluation of many cases: their rows, what they sum up to, and the rules that they were made by."""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from tqdm import tqdm

from datasets.findings import listed
from utils.evaluation.volumes.cases import OUTSIDE, Classes, Outcome, Volumes, rows_of, score_cases, unscored
from utils.evaluation.volumes.challenges import OFFICIAL, official_scores
from utils.evaluation.volumes.pairs import Pair
from utils.evaluation.volumes.scores import DEFINITIONS, EMPTY_MASK_RULES, LesionRule, summarize


def settings_of(challenge: str | None, tolerance_mm: float, rule: LesionRule) -> dict[str, Any]:
    """What two evaluations must share to be compared."""
    return {
        "official": challenge,
        "tolerance_mm": None if challenge else tolerance_mm,
        "lesion_iou": rule.iou,
        "lesion_ml": rule.smallest_ml,
        "lesion_connectivity": 26,
    }


def missed_by_locator(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each class on what lies outside the boxes that a locator chose; nothing where none did."""
    lines = []
    for name in dict.fromkeys(row["class"] for row in rows):
        found = [row for row in rows if row["class"] == name and row.get(OUTSIDE) is not None]
        missed, voxels = (sum(row[key] for row in found) for key in (OUTSIDE, "target_voxels"))
        if found:
            cases, share = sum(row[OUTSIDE] > 0 for row in found), missed / max(1, voxels)
            what = f"the locator's boxes leave out {missed} of {voxels} target voxels ({share:.3%})"
            lines.append(f"{name}: {what}, in {cases} of {len(found)} cases")
    return lines


def evaluate_cases(
    cases: Iterable[Pair | Volumes],
    count: int,
    classes: Classes,
    challenge: str | None,
    workers: int,
    source: Mapping[str, str],
    problems: Sequence[str] = (),
    notes: Sequence[str] = (),
    scheduler: str | None = None,
) -> dict[str, Any]:
    """Score `count` cases, and return the content of an evaluation's JSON.

    A fault of a case is printed in one line. source: where they come from; problems, notes: what is known of
    them already. Raises ValueError when none could be scored.
    """
    problems, notes = list(problems), list(notes)
    outcomes: list[Outcome] = []
    order: dict[str, int] = {}

    def drawn() -> Iterator[Pair | Volumes]:
        for number, case in enumerate(cases):
            order[case.case] = number
            yield case

    scored = score_cases(drawn(), classes, min(workers, count), scheduler)
    for outcome in tqdm(scored, "scoring", count, unit="case", disable=None):
        outcomes.append(outcome)
        if outcome.problem:
            tqdm.write(outcome.problem, sys.stderr)
            problems.append(outcome.problem)
    outcomes.sort(key=lambda outcome: order[outcome.case])  # they come as they finish
    rows = rows_of(outcomes, classes)
    if not rows:
        raise ValueError(
            "no case could be scored" if problems else "all labels are empty: name the classes with --class_names"
        )
    if lost := [outcome.case for outcome in outcomes if outcome.spacing_lost]:
        notes.append(
            f"{len(lost)} cases say 1 x 1 x 1 mm and an identity affine ({listed(lost, 3)}), as LiTS volumes 28 to 47 "
            "do: their spacing may be lost, then their mm are voxels and their ml 1000 voxels"
        )
    for value, holders in unscored(outcomes, classes).items():
        notes.append(f"label value {value}, in {holders} cases, belongs to no class that is scored")
    notes += missed_by_locator(rows)
    official = None
    if challenge:
        scores = official_scores(challenge, rows)
        official = {"challenge": challenge, "rule": OFFICIAL[challenge].rule, "scores": scores}
    return {
        "evaluated": dict(source),
        "settings": settings_of(challenge, classes.tolerance_mm, classes.lesion_rule),
        "cases": len({row["case"] for row in rows}),
        "empty_mask_rules": EMPTY_MASK_RULES,
        "definitions": DEFINITIONS,
        "not_scored": problems,
        "notes": notes,
        "summary": summarize(rows),
        "official": official,
        "rows": rows,
        "lesions": [
            {"case": outcome.case, "patient": outcome.patient, **row}
            for outcome in outcomes
            for row in outcome.scores.lesions
        ],
    }
