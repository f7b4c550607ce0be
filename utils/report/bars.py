"""Intervals and stacked bars as inline SVG in percent of their cell's width."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from utils.report.charts import Axis, linear_axis, number
from utils.report.markup import text

HEIGHT = 26


@dataclass(frozen=True)
class Part:
    """One stage of a stacked bar."""

    name: str
    value: float
    color: str


def interval_axis(intervals: Sequence[tuple[float, float, float]], zero: bool = False) -> Axis:
    """An axis that holds every (mean, low, high), and 0 if asked."""
    values = [value for interval in intervals for value in interval if math.isfinite(value)] + ([0.0] if zero else [])
    return linear_axis(min(values, default=0.0), max(values, default=1.0), 4)


def interval(axis: Axis, mean: float, low: float, high: float, color: str, note: str, zero: bool = False) -> str:
    """A dot and its interval on an axis, for a cell of a table; `zero` marks where there is no difference.

    Nothing where the mean is not a number, the dot alone where the ends are not.
    """
    if not math.isfinite(mean):
        return ""
    low, high = (end if math.isfinite(end) else mean for end in (low, high))
    center, left, right = (f"{100 * axis.place(min(max(v, axis.low), axis.high)):.2f}%" for v in (mean, low, high))
    half = HEIGHT / 2
    origin = f"{100 * axis.place(0):.2f}%" if zero else ""
    base = f'<line class="zero" x1="{origin}" x2="{origin}" y1="0" y2="100%"/>' if zero else ""
    grid = "".join(
        f'<line class="grid" x1="{100 * axis.place(tick):.2f}%" x2="{100 * axis.place(tick):.2f}%" y1="0" y2="100%"/>'
        for tick in axis.ticks
    )
    return (
        f'<svg class="interval" width="100%" height="{HEIGHT}" role="img" aria-label="{text(note)}">'
        f"<title>{text(note)}</title>{grid}{base}"
        f'<line class="whisker" x1="{left}" x2="{right}" y1="{half}" y2="{half}" style="stroke:{color}"/>'
        f'<circle cx="{center}" cy="{half}" r="5" style="fill:{color}"/></svg>'
    )


def interval_scale(axis: Axis, signed: bool = False) -> str:
    """The ticks of an axis, for the last row of a table of intervals."""
    marks = "".join(
        f'<text class="tick" x="{100 * axis.place(tick):.2f}%" y="12" text-anchor="middle">'
        f"{'+' if signed and tick > 1e-9 else ''}{number(0 if abs(tick) < 1e-9 else tick)}</text>"
        for tick in axis.ticks
    )
    return f'<svg class="interval" width="100%" height="16" aria-hidden="true">{marks}</svg>'


def stacked_bars(rows: Sequence[tuple[str, Sequence[Part], str]]) -> str:
    """Bars of stages, one under the other on one scale: (name in HTML, its parts, what is written behind)."""
    longest = max(sum(part.value for part in parts) for _, parts, _ in rows) or 1.0
    lines = []
    for name, parts, behind in rows:
        start, pieces = 0.0, []
        for part in parts:
            place = f'x="{100 * start / longest:.2f}%" width="{100 * part.value / longest:.2f}%"'
            note = f"<title>{text(part.name)}: {part.value:.3g} s</title>"
            pieces.append(f'<rect {place} y="3" height="18" style="fill:{part.color}">{note}</rect>')
            start += part.value
        bar = f'<svg width="100%" height="24" role="img" aria-label="{text(behind)}">{"".join(pieces)}</svg>'
        lines.append(
            f'<div class="bar-name">{name}</div><div class="bar">{bar}</div><div class="bar-value">{text(behind)}</div>'
        )
    return f'<div class="bars">{"".join(lines)}</div>'
