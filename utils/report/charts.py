"""Line charts as inline SVG: positions in percent, so that they fill any width and their letters keep their size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from utils.report.colors import Style
from utils.report.markup import text

MARKED = 16  # lines of no more points show them
CUT = 0.5  # of its length: an axis is cut where that leaves less
TOUCHED = 24  # points of a line with a tooltip


@dataclass(frozen=True)
class Line:
    """A named line through (steps, values)."""

    name: str
    steps: Sequence[float]
    values: Sequence[float]
    style: Style


@dataclass(frozen=True)
class Axis:
    """Limits and ticks of an axis, linear or logarithmic."""

    low: float
    high: float
    ticks: tuple[float, ...]
    logarithmic: bool = False

    def place(self, value: float) -> float:
        """Where a value lies, 0 to 1."""
        low, high = self.low, self.high
        if self.logarithmic:
            value, low, high = (math.log10(max(each, self.low)) for each in (value, low, high))
        return (value - low) / (high - low)


def linear_axis(low: float, high: float, count: int = 5) -> Axis:
    """An axis about [low, high] with round ticks."""
    if high <= low:
        low, high = low - 0.5 * (abs(low) or 1), low + 0.5 * (abs(low) or 1)
    rough = (high - low) / count
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return Axis(first * step, last * step, tuple(number * step for number in range(first, last + 1)))


def logarithmic_axis(low: float, high: float) -> Axis:
    """A logarithmic axis about [low, high] > 0: from and to 1, 2 or 5 times a power of ten."""
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    steps = [float(f"{factor}e{power}") for power in powers for factor in (1, 2, 5)]
    first = max(step for step in steps if step <= low)
    last = min(step for step in steps if step >= high and step > first)
    ticks = [step for step in steps if first <= step <= last]
    if len(ticks) > 7:
        ticks = [10.0**power for power in powers if first <= 10.0**power <= last]
        ticks = ticks[:: -(-len(ticks) // 6)]
    return Axis(first, last, tuple(ticks), logarithmic=True)


def line_chart(title: str, lines: Sequence[Line], x_label: str, logarithmic: bool = False, late: bool = False) -> str:
    """A figure of lines over one horizontal axis; tooltips are <title> elements. Nothing for no lines.

    late: where the lines rise steeply at first, the axis begins at the lowest value of their later halves.
    """
    lines = [line for line in lines if len(line.values)]
    if not lines:
        return ""
    values = [value for line in lines for value in line.values]
    steps = [step for line in lines for step in line.steps]
    if logarithmic:
        positive = [value for value in values if value > 0]
        vertical = logarithmic_axis(min(positive), max(positive)) if positive else linear_axis(0, 1)
    else:
        low = min(0.0, *values)
        if late:
            later = min(value for line in lines for value in line.values[len(line.values) // 2 :])
            low = later if max(values) - later < CUT * (max(values) - low) else low
        vertical = linear_axis(low, max(values))
    reach = linear_axis(0, max(steps), 4)
    horizontal = Axis(0, max(max(steps), 1), tuple(tick for tick in reach.ticks if tick <= max(steps) * 1.001))
    drawn = "".join(_line(line, horizontal, vertical) for line in lines)
    scale = ", logarithmic scale" if vertical.logarithmic else ""
    if vertical.low > 0 and not vertical.logarithmic:
        scale = f", from {number(vertical.low)} on"
    return (
        f'<figure class="chart"><figcaption>{text(title)}{scale}</figcaption>'
        f'<svg class="plot" role="img" aria-label="{text(title)}">{_grid(horizontal, vertical)}'
        f'<svg width="100%" height="100%" viewBox="0 0 1000 1000" preserveAspectRatio="none">{drawn}</svg>'
        f"{''.join(_points(line, horizontal, vertical) for line in lines)}"
        f'<text class="label" x="100%" y="100%" dy="32" text-anchor="end">{text(x_label)}</text></svg></figure>'
    )


def _grid(horizontal: Axis, vertical: Axis) -> str:
    parts = []
    for tick in vertical.ticks:
        y = f"{100 * (1 - vertical.place(tick)):.2f}%"
        parts.append(f'<line class="grid" x1="0" x2="100%" y1="{y}" y2="{y}"/>')
        parts.append(f'<text class="tick" x="-8" y="{y}" dy="4" text-anchor="end">{number(tick)}</text>')
    for tick in horizontal.ticks:
        x = f"{100 * horizontal.place(tick):.2f}%"
        parts.append(f'<text class="tick" x="{x}" y="100%" dy="16" text-anchor="middle">{number(tick)}</text>')
    return "".join(parts)


def _line(line: Line, horizontal: Axis, vertical: Axis) -> str:
    points = " ".join(
        f"{1000 * horizontal.place(step):.1f},{1000 * (1 - vertical.place(value)):.1f}"
        for step, value in zip(line.steps, line.values, strict=True)
    )
    last = f"{line.name}: {line.values[-1]:.3g} at the end"
    return (
        f'<polyline class="curve" points="{points}" style="stroke:{line.style.color}" '
        f'stroke-dasharray="{line.style.dash}" vector-effect="non-scaling-stroke">'
        f"<title>{text(last)}</title></polyline>"
    )


def _points(line: Line, horizontal: Axis, vertical: Axis) -> str:
    marked = len(line.values) <= MARKED
    stride = max(1, -(-len(line.values) // TOUCHED))
    parts = []
    for step, value in list(zip(line.steps, line.values, strict=True))[::stride]:
        if value < vertical.low:
            continue
        place = f'cx="{100 * horizontal.place(step):.2f}%" cy="{100 * (1 - vertical.place(value)):.2f}%"'
        note = f"<title>{text(line.name)}, step {step:.0f}: {value:.3g}</title>"
        if marked:
            parts.append(f'<circle class="dot" {place} r="2.5" style="fill:{line.style.color}"/>')
        parts.append(f'<circle class="touch" {place} r="8">{note}</circle>')
    return "".join(parts)


def number(value: float) -> str:
    """A tick's number in few letters."""
    if value and abs(value) < 1e-3:
        return f"{value:.0e}".replace("e-0", "e-")
    if abs(value) >= 10000:
        return f"{value / 1000:g}k"
    return f"{value:.6g}"
