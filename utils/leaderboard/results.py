"""A leaderboard's figures: test Dice over seeds, paired gains over the plain student, the share of the gap closed."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils.evaluation.kind import SLICES, kind_of_rows
from utils.evaluation.statistics import INTERVAL, Comparison, compare, correct, interval
from utils.evaluation.statistics import RULE as DIFFERENCE_COUNTS
from utils.leaderboard.csv_files import SCORE_COLUMNS, write_csv
from utils.leaderboard.execution import RECORD, read_record
from utils.leaderboard.identity import difference, fingerprint
from utils.leaderboard.plan import (
    PLAIN,
    Plan,
    PlannedRun,
    calibration_folder,
    calibration_runs,
    method_runs,
    name_of,
    plain_runs,
    run_folder,
)
from utils.report.learning import read_curves
from utils.runs import results
from utils.runs.comparison import case_dice
from utils.runs.results import other_data
from utils.training import checkpoints

RULE = (
    "gain: mean over seeds and test cases of a student's Dice minus that of the plain one of the same seed and case; "
    f"{DIFFERENCE_COUNTS}; {INTERVAL}; gap closed: gain over the gap between teacher and "
    "plain student, where the interval of that gap excludes 0"
)


def read_result(file: Path) -> dict[str, Any]:
    """A test.json. Raises ValueError where test was not read, or the file is damaged."""
    if not file.is_file():
        raise ValueError(f"{file}: not found: the run has not finished, or not read test (train.py --mode test)")
    content = results.read_result(file, rows_only=True)
    if kind_of_rows(content["rows"]) is not SLICES:
        raise ValueError(f"{file}: has no Dice: a leaderboard compares segmentations")
    return content


def _of_these_weights(file: Path, content: Mapping[str, Any], checkpoint: Path) -> Mapping[str, Any]:
    """The content of a test.json. Raises ValueError where its checkpoint has changed since."""
    tested = content.get("checkpoint_sha256")
    if tested and checkpoint.is_file() and tested != checkpoints.sha256(checkpoint):
        raise ValueError(f"{file}: is of another {checkpoint.name}: read test again, with train.py --mode test")
    return content


def teacher_dice(plan: Plan) -> dict[str, float]:
    """Dice of each test case of the teacher. Raises ValueError where it has not read test, or before it changed."""
    return case_dice([_teacher_result(plan)["rows"]])


def _teacher_result(plan: Plan) -> Mapping[str, Any]:
    file = plan.teacher_checkpoint.parent / "test.json"
    return _of_these_weights(file, read_result(file), plan.teacher_checkpoint)


def paired(
    ours: NDArray[np.floating],
    theirs: NDArray[np.floating],
    teacher: NDArray[np.floating],
    patients: Sequence[str] | None = None,
) -> tuple[Comparison, tuple[float, float, float]]:
    """Gain, and share of the gap closed, of scores by seed and case; NaN where there is no gap to close.

    ours, theirs: (seeds, cases), the same seed and case in the same place; teacher: (cases,). The share is a ratio of
    means; its interval is that of the mean of gain - share * gap (the delta method), in gaps.
    """
    gain, gap = compare(ours, theirs, True, patients), teacher - theirs
    if not interval([gap], patients)[1] > 0:
        return gain, (float("nan"),) * 3
    share = gain.mean / gap.mean()
    return gain, interval([share + (ours - theirs - share * gap) / gap.mean()], patients)[:3]


def choose_shares(plan: Plan) -> dict[tuple[str, str], float]:
    """The share with the best val score of each student and method; none where not all its runs have finished."""
    chosen = {}
    runs = {run.folder: run for run in calibration_runs(plan)}
    for student in plan.calibrated:
        for method in plan.weighed:
            scores = {}
            for share in plan.calibration.shares:
                folder = calibration_folder(plan, student, method, share)
                if _is_of(plan, runs[folder], done=True) and (values := _history(folder, "dice")):
                    scores[share] = max(values)
            if len(scores) == len(plan.calibration.shares):
                best = max(scores, key=scores.__getitem__)
                taking = [student] if plan.calibrated == list(plan.students) else plan.students
                chosen |= {(each, method): best for each in taking}
    return chosen


def _history(folder: Path, column: str) -> list[float]:
    """A column of a run's history.csv, epoch by epoch; empty where the file or the column is not there."""
    history = folder / "history.csv"
    if not history.is_file():
        return []
    try:
        with history.open(newline="") as file:
            return [float(row[column]) for row in csv.DictReader(file) if row.get(column)]
    except (ValueError, csv.Error):
        raise ValueError(f"{history}: is damaged: delete its folder, and the run is made again") from None


def rows(plan: Plan, shares: Mapping[tuple[str, str], float]) -> list[dict[str, Any]]:
    """A row for the teacher, and for each student plain and by method, best gain first; of the seeds that finished.

    What was trained by another plan of the same output is left out.
    """
    finished, result = _finished(plan, shares), _teacher_result(plan)
    scores = read_scores(plan, finished, result)
    teacher = np.array(scores["teacher", ""][0])
    patients = [patient for _, patient in _cases(result)]
    table = [_line("teacher", "", scores["teacher", ""], [plan.teacher_checkpoint.parent], None)]
    for student in plan.students:
        plain = scores[student, PLAIN]
        table.append(_scored(student, PLAIN, plain, finished[student, PLAIN]))
        for control in plan.controls:
            folders = finished[student, control]
            line = _scored(student, control, scores[student, control], folders)
            table.append(line | {"method": f"{PLAIN}: {control}", "seeds": len(folders)})
        lines, gains = [], {}
        for method in plan.methods:
            mine = scores[student, method]
            seeds = sorted(mine.keys() & plain.keys())
            line = _scored(student, method, mine, finished[student, method])
            if (student, method) in shares:
                line["share"] = shares[student, method]
            if len(seeds) and len(teacher) > 1:  # one case has no interval
                ours, theirs = (np.array([found[seed] for seed in seeds]) for found in (mine, plain))
                gains[len(lines)], closed = paired(ours, theirs, teacher, patients)
                line |= dict(zip(("closed", "closed_low", "closed_high"), closed, strict=True))
            lines.append(line)
        for place, gain in zip(gains, correct(list(gains.values())), strict=True):
            lines[place] |= {"gain": gain.mean, "gain_low": gain.low, "gain_high": gain.high}
            lines[place] |= {"verdict": gain.verdict, "why": gain.why}
        table += sorted(lines, key=lambda line: -line.get("gain", float("-inf")))
    return table


def read_scores(
    plan: Plan, finished: Mapping[tuple[str, str], Mapping[int, Path]], teacher: Mapping[str, Any]
) -> dict[tuple[str, str], dict[int, list[float]]]:
    """Dice of every test case, by student and method (the teacher is `teacher` without a method), then seed.

    A control of other classes than the teacher's has none: its mean would say nothing.
    """
    cases = [case for case, _ in _cases(teacher)]
    classes, dice = {row["class"] for row in teacher["rows"]}, case_dice([teacher["rows"]])
    scores = {("teacher", ""): {0: [dice[case] for case in cases]}}
    for (student, method), folders in finished.items():
        other = method in plan.controls and any(_classes(folder) != classes for folder in folders.values())
        scores[student, method] = {} if other else _by_seed(folders, cases, teacher)
    return scores


def _cases(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Each test case and its patient, by name."""
    return sorted({row["case"]: row.get("patient", row["case"]) for row in result["rows"]}.items())


def _finished(plan: Plan, shares: Mapping[tuple[str, str], float]) -> dict[tuple[str, str], dict[int, Path]]:
    """The folders of the plan's runs that have read test, by student and method (or control), then seed."""
    runs = {run.folder: run for run in [*plain_runs(plan), *method_runs(plan, shares)]}

    def is_finished(folder: Path) -> bool:
        return folder in runs and (folder / "test.json").is_file() and _is_of(plan, runs[folder])

    found = {}
    for student in plan.students:
        for method in (PLAIN, *plan.controls, *plan.methods):
            folders = {seed: run_folder(plan, student, method, seed) for seed in plan.seeds}
            found[student, method] = {seed: folder for seed, folder in folders.items() if is_finished(folder)}
    return found


def _is_of(plan: Plan, run: PlannedRun, done: bool = False) -> bool:
    """Whether what lies in a run's folder was made by its command, recipes, data and teacher (and ended well)."""
    file = run.folder / RECORD
    if not file.is_file():
        return True  # only its scores are here
    record = read_record(file)
    return not difference(record["identity"], fingerprint(plan, run)) and (record["done"] or not done)


def _by_seed(folders: Mapping[int, Path], cases: Sequence[str], teacher: Mapping[str, Any]) -> dict[int, list[float]]:
    """Dice of every case, by seed, of the runs that finished. teacher: its test result, on the same targets."""
    scores = {}
    for seed, folder in folders.items():
        file = folder / "test.json"
        result = _of_these_weights(file, read_result(file), folder / "best.ckpt")
        mine = case_dice([result["rows"]])
        if sorted(mine) != list(cases):
            raise ValueError(f"{folder}: other test cases than the teacher's: were the data sliced again?")
        if found := other_data(teacher, result, ("the teacher", str(folder)), images=True):
            raise ValueError(f"{found}: move both test.json away and test both on the same data (train.py --mode test)")
        scores[seed] = [mine[case] for case in cases]
    return scores


def _classes(folder: Path) -> set[str]:
    return {row["class"] for row in read_result(folder / "test.json")["rows"]}


def _scored(
    student: str, method: str, scores: Mapping[int, Sequence[float]], folders: Mapping[int, Path]
) -> dict[str, Any]:
    return _line(student, name_of(method), scores, list(folders.values()), _milliseconds(folders.values()))


def _line(
    student: str,
    method: str,
    scores: Mapping[int, Sequence[float]],
    folders: Sequence[Path],
    milliseconds: float | None,
) -> dict[str, Any]:
    means = [float(np.mean(dice)) for dice in scores.values()]
    validated = [max(values) for folder in folders if scores and (values := _history(folder, "dice"))]
    return {
        "student": student,
        "method": method,
        "seeds": len(means),
        "dice": statistics.mean(means) if means else None,
        "dice_sd": statistics.stdev(means) if len(means) > 1 else None,
        "val_dice": statistics.mean(validated) if validated else None,
        "ms_per_image": milliseconds,
        **_beside(folders),
    }


def _beside(folders: Sequence[Path]) -> dict[str, float]:
    """What stands beside the Dice that is compared, means over seeds: each class's, and that of RankSEG's labels."""
    scores = [read_result(folder / "test.json").get("scores", {}) for folder in folders]
    names = {name: name for score in scores for name in score if name.startswith("dice/")}
    names |= {"ranked": "ranked/dice"}
    found = {name: [score[key] for score in scores if key in score] for name, key in names.items()}
    return {name: statistics.mean(values) for name, values in found.items() if values}


def _milliseconds(folders: Iterable[Path]) -> float | None:
    """Median milliseconds of training an image took: teacher, student, losses, backward, optimizer and loading."""
    rates = [rate for folder in folders for rate in _history(folder, "images_per_second") or _older_rates(folder)]
    return 1000 / statistics.median(rates) if rates else None


def _older_rates(folder: Path) -> list[float]:
    """Images per second of a run whose history.csv does not have them yet, from its event files."""
    with suppress(ValueError):  # only its scores are here
        return read_curves(folder)["train/images_per_second"].values
    return []


def write_scores(file: Path, plan: Plan, shares: Mapping[tuple[str, str], float]) -> None:
    """The Dice of every student, method, seed and case as CSV, so that another rule can be applied exactly."""
    teacher = _teacher_result(plan)
    cases, table = _cases(teacher), []
    for (student, method), by_seed in read_scores(plan, _finished(plan, shares), teacher).items():
        for seed, values in by_seed.items():
            for place, dice in zip(cases, values, strict=True):
                line = (student, method and name_of(method), seed, *place, float(dice))
                table.append(dict(zip(SCORE_COLUMNS, line, strict=True)))
    write_csv(file, table, SCORE_COLUMNS)
