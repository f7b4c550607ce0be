"""What a leaderboard found, in words and in figures taken from its rows alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from utils.evaluation.statistics import BETTER, NOTHING, WORSE
from utils.leaderboard.plan import PLAIN

KINDS = {BETTER: "good", NOTHING: "none", WORSE: "bad"}  # of CSS
WORDS = {
    **{"emkd": "EMKD", "hlfd": "HLFD", "hdkd": "HDKD", "skd": "SKD", "dist": "DIST", "vkd": "VkD", "kd": "KD"},
    **{"pi": "Pi", "pa": "Pa", "ho": "Ho", "enet": "ENet", "unet": "U-Net", "raunet": "RAUNet"},
    **{"resnet18": "ResNet-18", "resnet50": "ResNet-50"},
}

Row = Mapping[str, Any]


def readable(name: str) -> str:
    """A method's or student's name for people: hlfd_as_published is HLFD as published."""
    words = " ".join(WORDS.get(word, word) for word in name.split("_"))
    return words[:1].upper() + words[1:]


def value(row: Row, name: str) -> float | None:
    """A figure of a row; None where it is missing or not a number."""
    figure = row.get(name)
    return None if figure is None or figure != figure else float(figure)


def is_alone(row: Row) -> bool:
    """Whether a row is a student without a teacher: the plain one, or a further control."""
    return row["method"].partition(":")[0] == PLAIN


def of_teacher(table: Sequence[Row]) -> Row:
    return next((row for row in table if row["student"] == "teacher" and not row["method"]), {})


def of_student(table: Sequence[Row], student: str) -> tuple[Row, list[Row], list[Row]]:
    """The plain row (empty where there is none), the further controls, and the methods' rows."""
    mine = [row for row in table if row["student"] == student and row["method"]]
    plain = next((row for row in mine if row["method"] == PLAIN), {})
    controls = [row for row in mine if is_alone(row) and row is not plain]
    return plain, controls, [row for row in mine if not is_alone(row)]


def counts(rows: Sequence[Row]) -> dict[str, int]:
    """How many methods are better, not measurably different, worse."""
    return {verdict: sum(row.get("verdict") == verdict for row in rows) for verdict in KINDS}


def chosen(table: Sequence[Row]) -> str | None:
    """The method with the best Dice on val, mean over the students; None where none was compared.

    On val, so that its test figures are not those of the luckiest of many. Only those with the most runs: the mean of
    fewer students or seeds is of easier ones.
    """
    methods: dict[str, list[Row]] = {}
    for row in table:
        if row.get("verdict") in KINDS and value(row, "val_dice") is not None:
            methods.setdefault(row["method"], []).append(row)
    finished = {name: (len(rows), sum(row["seeds"] for row in rows)) for name, rows in methods.items()}
    most = max(finished.values(), default=None)
    means = {
        name: sum(row["val_dice"] for row in rows) / len(rows)
        for name, rows in methods.items()
        if finished[name] == most
    }
    return max(means, key=means.__getitem__, default=None)


def headline(table: Sequence[Row]) -> str:
    """What the method that is best on val did on test, for each student. Plain text."""
    method = chosen(table)
    if method is None:
        return "No method can be compared with its student alone yet: the runs have not finished."
    clauses = [_clause(row, table) for row in table if row["method"] == method and row.get("verdict") in KINDS]
    return f"{readable(method)}, the best on val, {', and '.join(clauses)}."


def _clause(row: Row, table: Sequence[Row]) -> str:
    alone = f"{readable(row['student'])} alone{_bracketed(of_student(table, row['student'])[0])}"
    if row["verdict"] == NOTHING:
        return f"makes no measurable difference to {alone}"
    if row["verdict"] == WORSE:
        return f"is worse than {alone}: {interval(row, 'gain')}"
    if value(row, "closed") is None:
        return f"gains {interval(row, 'gain')} over {alone}, whose teacher leaves no gap"
    return f"closes {closed(row)} of the gap between {alone} and its teacher{_bracketed(of_teacher(table))}"


def interval(row: Row, name: str) -> str:
    """A signed figure with its interval: +0.123 [+0.101, +0.145]."""
    return f"{row[name]:+.3f} [{row[f'{name}_low']:+.3f}, {row[f'{name}_high']:+.3f}]"


def closed(row: Row) -> str:
    """The share of the gap with its interval: 61 % [48, 73]."""
    low, high = (f"{100 * row[f'closed_{end}']:.0f}" for end in ("low", "high"))
    return f"{100 * row['closed']:.0f} % [{low}, {high}]"


def _bracketed(row: Row) -> str:
    dice = value(row, "dice")
    return "" if dice is None else f" ({dice:.3f})"
