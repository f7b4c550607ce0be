"""Scores many cases, in worker processes, with a bounded number of them in memory."""

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils.evaluation.volumes.pairs import Pair
from utils.evaluation.volumes.scores import EMPTY_MASKS, CaseScores, LesionRule, Region, score_volumes
from utils.evaluation.volumes.surfaces import surfel_areas


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
    except (ValueError, OSError, MemoryError) as error:
        return Outcome(*known, problem=f"{case.case}: {' '.join(str(error).split()) or 'out of memory'}")
    return Outcome(*known, scores, frozenset(values))


def score_cases(cases: Iterable[Pair | Volumes], classes: Classes, workers: int) -> Iterator[Outcome]:
    """Score the cases in their order, in this process or in `workers` others.

    No more than one case beyond the workers is drawn ahead. A worker that is killed loses its pool: the cases in it
    then run one at a time in a process each, so that only the one that kills it is lost.
    """
    jobs = (Job(case, classes, surfel_areas(case.spacing)) for case in cases)
    if workers <= 1:
        yield from map(score_case, jobs)
        return
    pool = _pool(workers)
    waiting: deque[tuple[Job, Future[Outcome]]] = deque()
    try:
        for job in jobs:
            try:
                waiting.append((job, pool.submit(score_case, job)))
            except BrokenProcessPool:
                pool.shutdown()
                pool = _pool(workers)
                waiting.append((job, pool.submit(score_case, job)))
            if len(waiting) > workers:
                yield _result(*waiting.popleft())
        while waiting:
            yield _result(*waiting.popleft())
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _pool(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, mp_context=get_context("spawn"))


def _result(job: Job, future: Future[Outcome]) -> Outcome:
    try:
        return future.result()
    except BrokenProcessPool:
        case = job.case
    try:
        with _pool(1) as alone:
            return alone.submit(score_case, job).result()
    except BrokenProcessPool:
        problem = f"{case.case}: its worker was killed (out of memory?): free memory, or use fewer --jobs"
        return Outcome(case.case, case.patient, case.spacing, case.spacing_lost, problem=problem)


def rows_of(outcomes: Sequence[Outcome], classes: Classes) -> list[dict[str, Any]]:
    """A row for every case and every class that any case holds; a class the case lacks is scored as two empty masks."""
    scored = [outcome for outcome in outcomes if outcome.problem is None]
    regions = classes.of(set().union(*(outcome.values for outcome in scored)))
    nothing = np.zeros((1, 1, 1), np.uint8)
    rows = []
    for outcome in scored:
        empty = score_volumes(nothing, nothing, outcome.spacing, 1.0, np.zeros(256), regions, classes.lesion_rule).rows
        mine = {row["class"]: row for row in (*empty, *outcome.scores.rows)}
        place = {"case": outcome.case, "patient": outcome.patient}
        known = {"spacing_lost": outcome.spacing_lost, "empty_mask_rule": EMPTY_MASKS}
        rows += [{**place, **row, **known} for row in mine.values()]
    return rows


def unscored(outcomes: Sequence[Outcome], classes: Classes) -> dict[int, int]:
    """Label values that belong to no class, and the number of cases that hold them."""
    if classes.regions is None:
        return {}
    known = {value for region in classes.regions for value in region.values}
    found = Counter(value for outcome in outcomes for value in outcome.values - known)
    return dict(sorted(found.items()))
