"""A forest plot of a student's methods: each one's gain drawn on an axis that all students share, and its figures."""

from __future__ import annotations

from collections.abc import Sequence

from utils.leaderboard.verdicts import KINDS, Row, interval, is_alone, of_student, of_teacher, readable, value
from utils.report import bars
from utils.report.charts import Axis
from utils.report.markup import MISSING, TIMES, Column, table, text

GAIN = ("gain", "gain_low", "gain_high")


def gain_axis(rows: Sequence[Row]) -> Axis | None:
    """An axis that holds 0 and every interval of these rows; None where none has a gain."""
    triples = [triple for row in rows if (triple := _gain(row))]
    return bars.interval_axis(triples, zero=True) if triples else None


def show_student(rows: Sequence[Row], student: str, axis: Axis | None, color: str, seeds: int) -> str:
    """A row for the teacher, the student alone, each control and each method. seeds: that the plan asks for."""
    plain, controls, methods = of_student(rows, student)
    shown = [row for row in (of_teacher(rows), plain, *controls, *methods) if row]
    classes = [name for name in dict.fromkeys(key for row in shown for key in row) if name.startswith("dice/")]
    classes = [name for name in classes if any(value(row, name) is not None for row in shown)]
    ranked = any(value(row, "ranked") is not None for row in shown)
    weighted = any(value(row, "share") is not None for row in shown)
    validated = any(value(row, "val_dice") is not None for row in shown)
    columns = [
        Column("method"),
        Column("Dice", True, "mean of the test cases over seeds, and its standard deviation over seeds"),
        Column("gain over the student alone"),
        Column("gain", True, "in Dice, with its 95 % interval"),
        Column("verdict"),
        Column("gap closed", True, "gain over the gap between teacher and student alone, with its 95 % interval"),
        *(
            [Column("val", True, "Dice on val, mean over seeds: what the best method is chosen by")]
            if validated
            else []
        ),
        *(Column(name.removeprefix("dice/"), True, "test Dice of this class") for name in classes),
        *([Column("ranked", True, "test Dice of RankSEG-RMA labels; in no gain")] if ranked else []),
        *([Column("weight", True, "of the method's terms, in gradients of the task loss")] if weighted else []),
        Column("ms/image", True, f"of training, and {TIMES} that of the student alone"),
    ]
    lines = []
    for row in shown:
        lines.append(
            [
                _name(row, seeds),
                _dice(row),
                _drawn(row, axis, color),
                _stacked(row, "gain", "+.3f"),
                _verdict(row),
                _stacked(row, "closed", ".0f", 100, " %"),
                *([_number(row, "val_dice", ".3f")] if validated else []),
                *(_number(row, name, ".3f") for name in classes),
                *([_number(row, "ranked", ".3f")] if ranked else []),
                *([_number(row, "share", "g")] if weighted else []),
                _cost(row, plain),
            ]
        )
    if axis is not None:
        lines.append(["", "", bars.interval_scale(axis, signed=True), *[""] * (len(columns) - 3)])
    return f'<div class="forest">{table(columns, lines)}</div>'


def _gain(row: Row) -> tuple[float, float, float] | None:
    mean, low, high = (value(row, name) for name in GAIN)
    return None if mean is None or low is None or high is None else (mean, low, high)


def _name(row: Row, seeds: int) -> str:
    if row["student"] == "teacher":
        return "Teacher"
    name, below = readable(row["method"]), ""
    if is_alone(row):
        name = f"{readable(row['student'])} alone"
        below = f"<br><small>{text(row['method'].partition(': ')[2])}</small>" if ":" in row["method"] else ""
    finished = row.get("seeds") or 0
    some = f'<br><small class="warning">{finished} of {seeds} seeds</small>' if 0 < finished < seeds else ""
    return text(name) + below + some


def _dice(row: Row) -> str:
    spread = value(row, "dice_sd")
    return _number(row, "dice", ".3f") + ("" if spread is None else f"<br><small>± {spread:.3f}</small>")


def _drawn(row: Row, axis: Axis | None, color: str) -> str:
    triple = _gain(row)
    if axis is None or triple is None:
        return ""
    return bars.interval(axis, *triple, color, f"{readable(row['method'])}: {interval(row, 'gain')}", zero=True)


def _stacked(row: Row, name: str, form: str, factor: float = 1, unit: str = "") -> str:
    """A figure, and its interval below; nothing where it does not exist."""
    figures = [value(row, f"{name}{end}") for end in ("", "_low", "_high")]
    if any(figure is None for figure in figures):
        return ""
    mean, low, high = (format(factor * figure, form) for figure in figures)
    return f"<b>{mean}{unit}</b><br><small>{low} … {high}</small>"


def _verdict(row: Row) -> str:
    verdict = row.get("verdict")
    if verdict in KINDS:
        return f'<span class="verdict {KINDS[verdict]}">{text(verdict)}</span>'
    if row["student"] == "teacher":
        return '<span class="chip teacher">teacher</span>'
    if not row.get("seeds"):
        return "<small>not finished</small>"
    return f'<span class="chip">{"control" if is_alone(row) else "no plain run of its seeds"}</span>'


def _number(row: Row, name: str, form: str) -> str:
    figure = value(row, name)
    return MISSING if figure is None else format(figure, form)


def _cost(row: Row, plain: Row) -> str:
    mine, theirs = value(row, "ms_per_image"), value(plain, "ms_per_image")
    if mine is None:
        return MISSING
    ratio = f"<br><small>{mine / theirs:.2f}{TIMES}</small>" if theirs and row is not plain else ""
    return f"{mine:.1f}{ratio}"
