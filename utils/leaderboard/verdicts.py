"""What a leaderboard found, in words and in figures taken from its rows alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from utils.leaderboard.plan import PLAIN

BETTER, NOTHING, WORSE = "better", "no measurable difference", "worse"
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


def best(rows: Sequence[Row]) -> Row | None:
    """Of the methods that are better, the one that closes most of the gap; without a gap, the one that gains most."""
    better = [row for row in rows if row.get("verdict") == BETTER]

    def merit(row: Row) -> tuple[float, float]:
        closed = value(row, "closed")
        return float("-inf") if closed is None else closed, row["gain"]

    return max(better, key=merit, default=None)


def headline(table: Sequence[Row]) -> str:
    """The best method of all students in one sentence, or that there is none. Plain text."""
    methods = [row for row in table if row["method"] and not is_alone(row)]
    compared = counts(methods)
    total = sum(compared.values())
    if not total:
        return "No method can be compared with its student alone yet: the runs have not finished."
    winner = best(methods)
    if winner is None:
        parts = [
            *([f"{compared[NOTHING]} without measurable difference"] if compared[NOTHING] else []),
            *([f"{compared[WORSE]} worse"] if compared[WORSE] else []),
        ]
        what = f"{total} comparison{'' if total == 1 else 's'}"
        return f"No method is measurably better than its student alone ({what}: {', '.join(parts)})."
    plain = of_student(table, winner["student"])[0]
    alone = f"{readable(winner['student'])} alone{_bracketed(plain)}"
    teacher = f"its teacher{_bracketed(of_teacher(table))}"
    if value(winner, "closed") is None:
        return (
            f"{readable(winner['method'])} gains {interval(winner, 'gain')} over {alone}; "
            f"{teacher} leaves no gap to measure that by."
        )
    return f"{readable(winner['method'])} closes {closed(winner)} of the gap between {alone} and {teacher}."


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
