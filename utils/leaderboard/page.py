"""The leaderboard's page: what was found, a forest plot of each student, and how it was measured."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from utils.leaderboard.forest import gain_axis, show_student
from utils.leaderboard.measured import show_measured
from utils.leaderboard.plan import Plan
from utils.leaderboard.results import teacher_dice
from utils.leaderboard.verdicts import (
    KINDS,
    Row,
    chosen,
    closed,
    counts,
    headline,
    interval,
    of_student,
    of_teacher,
    readable,
    value,
)
from utils.report.colors import HUES
from utils.report.markup import section, text
from utils.report.page import write_page
from utils.report.provenance import definitions


def write_leaderboard(file: Path, plan: Plan, table: Sequence[Mapping[str, Any]], problems: Sequence[str] = ()) -> None:
    """Write the page whole or not at all. table: of `results.rows`; problems: a line for each run that failed."""
    axis = gain_axis(table)
    parts = [("summary", "At a glance", _summary(plan, table, problems))]
    for number, student in enumerate(plan.students):
        color = f"var(--hue-{number % HUES + 1})"
        content = show_student(table, student, axis, color, len(plan.seeds))
        name = readable(student)
        parts.append(
            (f"student-{number + 1}", name, section(f"student-{number + 1}", name, content, _gap(table, student)))
        )
    parts.append(("measured", "How it was measured", section("measured", "How it was measured", show_measured(plan))))
    title = readable(plan.folder.name)
    eyebrow = f"Distillation leaderboard · {datetime.date.today():%d %B %Y}"
    write_page(file, title, eyebrow, _subtitle(plan), parts)


def _subtitle(plan: Plan) -> str:
    cases = None
    with suppress(ValueError, OSError):  # its test scores may lie elsewhere
        cases = len(teacher_dice(plan))
    parts = [_counted(len(plan.methods), "method"), _counted(len(plan.students), "student")]
    parts += [_counted(len(plan.seeds), "seed"), *([_counted(cases, "test case")] if cases else [])]
    return ", ".join(parts)


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _summary(plan: Plan, table: Sequence[Row], problems: Sequence[str]) -> str:
    content = f'<p class="headline">{text(headline(table))}</p>'
    winner = chosen(table)
    found = definitions([(readable(student), _found(table, student, winner)) for student in plan.students])
    content += f'<div class="sentence">{found}</div>'
    if problems:
        lines = "".join(f"<li>{text(line)}</li>" for line in problems)
        content += f'<div class="problems"><b>Runs that failed</b><ul>{lines}</ul></div>'
    return section("summary", "At a glance", content)


def _found(table: Sequence[Row], student: str, winner: str | None) -> str:
    """How many methods are better, equal, worse, and what the best on val did."""
    _, _, methods = of_student(table, student)
    found = counts(methods)
    chips = [f'<span class="verdict {KINDS[verdict]}">{count} {verdict}</span>' for verdict, count in found.items()]
    if left := len(methods) - sum(found.values()):
        chips.append(f'<span class="chip">{left} not compared</span>')
    told = ""
    if row := next((row for row in methods if row["method"] == winner and row.get("verdict") in KINDS), None):
        share = "" if value(row, "closed") is None else f", {closed(row)} of the gap"
        told = f"<br>{text(readable(row['method']))}: {interval(row, 'gain')}{share}"
    return " ".join(chips) + told


def _gap(table: Sequence[Row], student: str) -> str:
    plain = value(of_student(table, student)[0], "dice")
    teacher = value(of_teacher(table), "dice")
    if plain is None or teacher is None:
        return ""
    return f"Alone {plain:.3f}, teacher {teacher:.3f}: a gap of {teacher - plain:+.3f} test Dice."
