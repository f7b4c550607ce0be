"""Scores many cases side by side, with a bounded number of them in memory."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils.evaluation.volumes.pairs import Pair
from utils.evaluation.volumes.scores import EMPTY_MASKS, CaseScores, LesionRule, Region, score_volumes
from utils.evaluation.volumes.surfaces import surfel_areas
from utils.workers import explain, run

OUTSIDE = "target_voxels_outside_box"  # the key of a row that counts what a locator missed


@dataclass(frozen=True)
class Volumes:
    """Prediction and target of a case in memory: (D, H, W) label values, and which there can be.

    spacing: mm in the same axis order; spacing_lost, voxel_ml: see `Pair`.
    """

    case: str
    patient: str
    prediction: NDArray[np.uint8]
    target: NDArray[np.uint8]
    values: frozenset[int]
    spacing: tuple[float, float, float]
    spacing_lost: bool
    voxel_ml: float
    box: None = None

    def read(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8], set[int]]:
        return self.prediction, self.target, set(self.values)


@dataclass(frozen=True)
class Classes:
    """What is scored: these regions, or (None) every label value there is, under its name if one is known."""

    regions: tuple[Region, ...] | None
    names: dict[int, str]
    tolerance_mm: float
    lesion_rule: LesionRule

    def of(self, values: Iterable[int]) -> tuple[Region, ...]:
        """The regions of a case that holds these values."""
        if self.regions is not None:
            return self.regions
        named = ((value, self.names.get(value, f"label {value}")) for value in sorted(values))
        return tuple(Region(name, (value,), self.tolerance_mm) for value, name in named)


@dataclass(frozen=True)
class Job:
    """A case to score, and the surfel areas of its spacing: computing those imports MONAI, workers need not."""

    case: Pair | Volumes
    classes: Classes
    areas: NDArray[np.float64]


@dataclass(frozen=True)
class Outcome:
    """What became of a case: its scores and the label values it holds, or one line that says why it has none."""

    case: str
    patient: str
    spacing: tuple[float, float, float]
    spacing_lost: bool
    scores: CaseScores = field(default_factory=lambda: CaseScores([], []))
    values: frozenset[int] = frozenset()
    problem: str | None = None


def score_case(job: Job) -> Outcome:
    """Read and score one case; whatever is wrong with it comes back as `problem`."""
    case = job.case
    known = (case.case, case.patient, case.spacing, case.spacing_lost)
    try:
        prediction, target, values = case.read()
        regions = job.classes.of(values)
        rule = job.classes.lesion_rule
        scores = score_volumes(prediction, target, case.spacing, case.voxel_ml, job.areas, regions, rule)
        if case.box is not None:
            for row, region in zip(scores.rows, regions, strict=True):
                row[OUTSIDE] = _count(target, region) - _count(target[case.box], region)
    except (ValueError, OSError, MemoryError) as error:
        return Outcome(*known, problem=f"{case.case}: {' '.join(str(error).split()) or 'out of memory'}")
    return Outcome(*known, scores, frozenset(values))


def _count(labels: NDArray[np.uint8], region: Region) -> int:
    return int(np.count_nonzero(np.isin(labels, region.values)))


def score_cases(
    cases: Iterable[Pair | Volumes], classes: Classes, workers: int, scheduler: str | None = None
) -> Iterator[Outcome]:
    """Score the cases as `utils.workers.run` does; no more than one beyond the workers is in memory."""
    jobs = (Job(case, classes, surfel_areas(case.spacing)) for case in cases)
    return run(score_case, jobs, _failed, workers, scheduler)


def _failed(job: Job, error: Exception) -> Outcome:
    case = job.case
    problem = f"{case.case}: {': '.join(explain(error))}"
    return Outcome(case.case, case.patient, case.spacing, case.spacing_lost, problem=problem)


def rows_of(outcomes: Sequence[Outcome], classes: Classes) -> list[dict[str, Any]]:
    """A row for every case and every class that any case holds; a class the case lacks is scored as two empty masks."""
    scored = [outcome for outcome in outcomes if outcome.problem is None]
    regions = classes.of(set().union(*(outcome.values for outcome in scored)))
    nothing = np.zeros((1, 1, 1), np.uint8)
    located = any(OUTSIDE in row for outcome in scored for row in outcome.scores.rows)
    rows = []
    for outcome in scored:
        empty = score_volumes(nothing, nothing, outcome.spacing, 1.0, np.zeros(256), regions, classes.lesion_rule).rows
        mine = {row["class"]: row for row in (*empty, *outcome.scores.rows)}
        place = {"case": outcome.case, "patient": outcome.patient}
        known = {"spacing_lost": outcome.spacing_lost, "empty_mask_rule": EMPTY_MASKS}
        for row in mine.values():
            rows.append({**place, **row, **({OUTSIDE: row.get(OUTSIDE)} if located else {}), **known})
    return rows


def unscored(outcomes: Sequence[Outcome], classes: Classes) -> dict[int, int]:
    """Label values that belong to no class, and the number of cases that hold them."""
    if classes.regions is None:
        return {}
    known = {value for region in classes.regions for value in region.values}
    found = Counter(value for outcome in outcomes for value in outcome.values - known)
    return dict(sorted(found.items()))
