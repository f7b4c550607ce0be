"""A leaderboard measured: trains what is missing, with the time that is left, and shows the table."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from datasets.files import alone_in
from utils.command import check_numbers
from utils.leaderboard.csv_files import SCORE_COLUMNS, refuse_foreign_table, write_csv
from utils.leaderboard.execution import Finished, Slots, execute
from utils.leaderboard.identity import fingerprint
from utils.leaderboard.labels import refuse_no_labels
from utils.leaderboard.page import write_leaderboard
from utils.leaderboard.plan import (
    Plan,
    PlannedRun,
    calibration_runs,
    method_runs,
    plain_runs,
    read_plan,
    teacher_runs,
)
from utils.leaderboard.results import (
    RULE,
    choose_shares,
    rows,
    teacher_dice,
    write_scores,
)
from utils.report.page import refuse_foreign
from utils.tables import table

TABLE, PAGE, SCORES = "leaderboard.csv", "leaderboard.html", "scores.csv"


def measure(args: argparse.Namespace) -> int:
    """Train what is missing, and print the table; 1 where a run failed."""
    slots = places(args)
    plan = read_plan(args.plan)
    refuse_no_labels(plan)
    refuse_foreign_table(plan.folder / TABLE)
    refuse_foreign_table(plan.folder / SCORES, SCORE_COLUMNS)
    refuse_foreign(plan.folder / PAGE)
    problems = []
    if not args.table:
        with alone_in(plan.folder):
            problems = train(plan, slots)
    show(plan, problems)
    return 1 if problems else 0


def places(args: argparse.Namespace) -> Slots:
    """Places for the runs that train at once, on the CPU or the GPUs that are given. Raises ValueError for others."""
    check_numbers(args, jobs=1, per_gpu=1)
    if not args.gpus:
        if args.per_gpu is not None:
            raise ValueError(f"--per_gpu {args.per_gpu}: say on which GPUs, e.g. --gpus 0")
        return Slots(args.jobs or 1)
    if args.jobs is not None:
        raise ValueError(f"--jobs {args.jobs}: with --gpus give --per_gpu, the runs at once on each")
    if len(set(args.gpus)) < len(args.gpus):
        raise ValueError(f"--gpus {' '.join(args.gpus)}: give each GPU once, and --per_gpu for several runs on each")
    return Slots(len(args.gpus) * (args.per_gpu or 1), args.gpus)


def train(plan: Plan, slots: Slots) -> list[Finished]:
    """Everything that is not done: the teacher, students alone, calibrations, methods. Returns what failed."""
    methods_first = method_runs(plan)
    total = [*teacher_runs(plan), *plain_runs(plan), *calibration_runs(plan), *methods_first]
    problems: list[Finished] = []
    with tqdm(total=len(total), unit="run", disable=None) as bar:
        clock = _Clock(len(total), bar)

        def phase(runs: Sequence[PlannedRun]) -> list[Finished]:
            ended = execute(runs, lambda run: fingerprint(plan, run), slots, clock.report)
            problems.extend(finished for finished in ended if finished.problem)
            return ended

        if any(finished.problem for finished in phase(teacher_runs(plan))):
            raise ValueError(f"the teacher could not be trained: {problems[0].problem}")
        if not plan.teacher_checkpoint.is_file():
            raise ValueError(f"{plan.teacher_checkpoint}: no such teacher: train it first, with train.py --mode both")
        teacher_dice(plan)  # without it there would be no table
        phase([*plain_runs(plan), *calibration_runs(plan)])
        phase(method_runs(plan, choose_shares(plan)))
    return problems


class _Clock:
    """Reports each run as it ends, and about how long the rest takes."""

    def __init__(self, total: int, bar: tqdm) -> None:
        self.left, self.bar = total, bar
        self.started, self.ran = time.monotonic(), 0

    def report(self, finished: Finished) -> None:
        self.left -= 1
        self.bar.update()
        if finished.problem:
            self.bar.write(f"failed: {finished.run.name}: {finished.problem} ({finished.run.folder / 'log.txt'})")
        elif finished.seconds:
            self.ran += 1
            minutes = (time.monotonic() - self.started) / self.ran * self.left / 60
            self.bar.write(
                f"{finished.run.name}: {finished.seconds:.0f} s; {self.left} runs, about {minutes:.0f} min left"
            )


def show(plan: Plan, problems: Sequence[Finished]) -> None:
    """Write the CSV and the page, and print the table."""
    shares = choose_shares(plan)
    lines = rows(plan, shares)
    file, page = plan.folder / TABLE, plan.folder / PAGE
    write_csv(file, lines)
    write_scores(plan.folder / SCORES, plan, shares)
    write_leaderboard(page, plan, lines, [f"{finished.run.name}: {finished.problem}" for finished in problems])
    print(table([_cells(line) for line in lines]))
    print(
        f"\n{RULE}.\nmean Dice of the test cases; ± over seeds; share: of the gradient early on, chosen on val; "
        "ms/image: of training"
    )
    for finished in problems:
        print(f"failed: {finished.run.name}: {finished.problem}")
    print(f"  {file}\n  {page}")


def _cells(line: dict[str, Any]) -> dict[str, str]:
    def number(name: str, form: str) -> str:
        value = line.get(name)
        return "" if value is None or value != value else format(value, form)

    def interval(name: str, form: str) -> str:
        if not number(name, form):
            return ""
        return f"{number(name, form)} [{number(f'{name}_low', form)}, {number(f'{name}_high', form)}]"

    spread = f" ± {number('dice_sd', '.3f')}" if number("dice_sd", ".3f") else ""
    return {
        "student": line["student"],
        "method": line["method"],
        "seeds": str(line["seeds"]),
        "Dice": number("dice", ".3f") + spread,
        "gain": interval("gain", "+.3f"),
        "verdict": line.get("verdict", ""),
        "gap closed": interval("closed", ".0%"),
        "share": number("share", "g"),
        "ms/image": number("ms_per_image", ".1f"),
    }
