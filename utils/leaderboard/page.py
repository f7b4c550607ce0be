"""The leaderboard's page: what was found, a forest plot of each student, and how it was measured."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from utils.leaderboard import verdicts
from utils.leaderboard.plan import Plan
from utils.leaderboard.results import RULE, teacher_dice
from utils.leaderboard.verdicts import Row, of_student, of_teacher, readable, value
from utils.report.charts import HUES, Axis, interval_axis
from utils.report.page import write_page

TEMPLATE = Path(__file__).resolve().with_name("leaderboard.html.j2")
COLUMNS = {
    "Dice": "mean Dice over classes of a test case, mean over cases, then mean ± standard deviation over seeds.",
    "Gain": "the student's Dice minus that of the student alone of the same seed and case, mean over both, and its "
    "95 % interval: an analysis of variance in which seeds and cases are drawn (of one seed Student's t over cases).",
    "Verdict": "better, worse, or no measurable difference, by the rule above.",
    "Gap closed": "gain over the gap between the teacher's Dice and that of the student alone. Empty where that gap's "
    "interval does not lie above 0.",
    "Ranked": "Dice of the same network's labels by RankSEG-RMA instead of the most probable ones; in no gain.",
    "Weight": "what a method's terms together weigh early on: their gradient norm as a multiple of the task loss's.",
    "ms/image": "of training, median: loading, teacher, student, losses, backward and optimizer. Runs side by side "
    "slow one another.",
}


def write_leaderboard(file: Path, plan: Plan, table: Sequence[Mapping[str, Any]], problems: Sequence[str] = ()) -> None:
    """Write the page whole or not at all. table: of `results.rows`; problems: a line for each run that failed."""
    write_page(
        file,
        TEMPLATE,
        title=_title(plan),
        eyebrow=f"Distillation leaderboard · {datetime.date.today():%d %B %Y}",
        subtitle=_subtitle(plan),
        **{"plan": plan, "table": table, "problems": problems, "verdicts": verdicts, "axis": gain_axis(table)},
        **{"winner": verdicts.chosen(table), "hues": HUES, "show": shown, "gap": _gap, "triple": gain_triple},
        **{"columns": COLUMNS, "rule": RULE, "data": _data(Path(plan.student_config)), "inline": _inline},
        plan_values={name: what for name, what in asdict(plan).items() if what not in ("", [], {})},
    )


def gain_axis(rows: Sequence[Row]) -> Axis | None:
    """An axis that holds 0 and every interval of these rows; None where none has a gain."""
    triples = [triple for row in rows if (triple := gain_triple(row))]
    return interval_axis(triples, zero=True) if triples else None


def gain_triple(row: Row) -> tuple[float, float, float] | None:
    """Mean, low and high of a row's gain."""
    mean, low, high = (value(row, name) for name in ("gain", "gain_low", "gain_high"))
    return None if mean is None or low is None or high is None else (mean, low, high)


def shown(table: Sequence[Row], student: str) -> dict[str, Any]:
    """The rows of a student (the teacher, the student alone, each control and each method), and its columns."""
    plain, controls, methods = of_student(table, student)
    rows = [row for row in (of_teacher(table), plain, *controls, *methods) if row]

    def is_there(name: str) -> bool:
        return any(value(row, name) is not None for row in rows)

    classes = [name for name in dict.fromkeys(key for row in rows for key in row) if name.startswith("dice/")]
    return {
        "rows": rows,
        "plain": plain,
        "methods": methods,
        "classes": [name for name in classes if is_there(name)],
        **{name: is_there(name) for name in ("ranked", "share", "val_dice")},
    }


def _title(plan: Plan) -> str:
    students = [readable(student) for student in plan.students]
    named = students[0] if len(students) == 1 else f"{', '.join(students[:-1])} and {students[-1]}"
    how = _counted(len(plan.methods), "way")
    return f"{readable(plan.folder.name)}: {named} distilled in {how}, against the same network alone"


def _subtitle(plan: Plan) -> str:
    parts = [_counted(len(plan.methods), "method"), _counted(len(plan.students), "student")]
    parts.append(_counted(len(plan.seeds), "seed"))
    with suppress(ValueError, OSError):  # the teacher's test scores may lie elsewhere
        parts.append(_counted(len(teacher_dice(plan)), "test case"))
    return ", ".join(parts)


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _gap(table: Sequence[Row], student: str) -> str:
    plain = value(of_student(table, student)[0], "dice")
    teacher = value(of_teacher(table), "dice")
    if plain is None or teacher is None:
        return ""
    return f"Alone {plain:.3f}, teacher {teacher:.3f}: a gap of {teacher - plain:+.3f} test Dice."


def _data(recipe: Path) -> dict[str, Any]:
    """The recipe's data section, as it stands before any flag."""
    with suppress(OSError, ValueError, yaml.YAMLError, KeyError):
        return dict(yaml.safe_load(recipe.read_text(encoding="utf-8"))["data"])
    return {}


def _inline(what: Any) -> str:
    """YAML on one line."""
    return yaml.safe_dump(what, default_flow_style=True, sort_keys=False, width=10**6).removesuffix("...\n").strip()
