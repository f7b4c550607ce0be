"""Charts as inline SVG: positions in percent, so that they fill any width and their letters keep their size.

A network has a hue; teacher, student alone and each method have a dash: two ways to tell every line. The hues can be
told apart by people with color-blindness (Okabe and Ito 2008).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import yaml
from markupsafe import Markup

from utils.runs.groups import Group

HUES = 6  # --hue-1 ... in page.css
ALONE_DASH = "2 4"
METHOD_DASHES = ("", "9 4", "9 3 2 3", "14 3 2 3 2 3")
MARKED = 16  # lines of no more points show them
CUT = 0.5  # of its length: an axis is cut where that leaves less
TOUCHED = 24  # points of a line with a tooltip
HEIGHT = 26  # pixels of an interval's picture


@dataclass(frozen=True)
class Style:
    """How a line is drawn: a CSS color and a dash pattern."""

    color: str
    dash: str = ""


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

    def percent(self, value: float) -> str:
        return f"{100 * self.place(value):.2f}%"


def group_styles(groups: Sequence[Group]) -> dict[str, Style]:
    """The style of each group by name: teachers in ink, each student network in a hue."""
    networks: list[str] = []
    methods: dict[str, int] = {}
    styles = {}
    for group in groups:
        if group.role == "teacher":
            styles[group.name] = Style("var(--ink)", METHOD_DASHES[len(styles) % len(METHOD_DASHES)])
            continue
        network = yaml.safe_dump(group.first.checkpoint["network"])
        if network not in networks:
            networks.append(network)
        color = f"var(--hue-{networks.index(network) % HUES + 1})"
        if group.role == "plain":
            styles[group.name] = Style(color, ALONE_DASH)
        else:
            number = methods[network] = methods.get(network, -1) + 1
            styles[group.name] = Style(color, METHOD_DASHES[number % len(METHOD_DASHES)])
    return styles


def term_styles(names: Sequence[str]) -> dict[str, Style]:
    """The style of each term of a loss: the task in ink, the others hue by hue, then dashed."""
    styles = {}
    for number, name in enumerate(names):
        turn, hue = divmod(number - 1, HUES)
        dash = METHOD_DASHES[turn % len(METHOD_DASHES)]
        styles[name] = Style("var(--ink)") if name == "task" else Style(f"var(--hue-{hue + 1})", dash)
    return styles


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


def interval_axis(intervals: Sequence[tuple[float, float, float]], zero: bool = False) -> Axis:
    """An axis that holds every (mean, low, high), and 0 if asked."""
    values = [value for interval in intervals for value in interval if math.isfinite(value)] + ([0.0] if zero else [])
    return linear_axis(min(values, default=0.0), max(values, default=1.0), 4)


def interval(axis: Axis, ends: tuple[float, float, float], color: str, note: str, zero: bool = False) -> Markup:
    """A dot at the mean and a line from low to high, for a cell of a table; `zero` marks where there is no difference.

    Nothing where the mean is not a number, the dot alone where the ends are not.
    """
    mean = ends[0]
    if not math.isfinite(mean):
        return Markup()
    center, left, right = (
        axis.percent(min(max(end if math.isfinite(end) else mean, axis.low), axis.high)) for end in ends
    )
    upright = Markup('<line class="{kind}" x1="{x}" x2="{x}" y1="0" y2="100%"/>')
    lines = [upright.format(kind="grid", x=axis.percent(tick)) for tick in axis.ticks]
    lines += [upright.format(kind="zero", x=axis.percent(0))] if zero else []
    return Markup(
        '<svg class="interval" width="100%" height="{height}" role="img" aria-label="{note}"><title>{note}</title>'
        '{lines}<line class="whisker" x1="{left}" x2="{right}" y1="{half}" y2="{half}" style="stroke:{color}"/>'
        '<circle cx="{center}" cy="{half}" r="5" style="fill:{color}"/></svg>'
    ).format(
        height=HEIGHT,
        half=HEIGHT / 2,
        note=note,
        lines=Markup().join(lines),
        **{"left": left, "right": right, "center": center, "color": color},
    )


def interval_scale(axis: Axis, signed: bool = False) -> Markup:
    """The ticks of an axis, for the last row of a table of intervals."""
    tick_mark = Markup('<text class="tick" x="{}" y="12" text-anchor="middle">{}</text>')
    marks = [
        tick_mark.format(axis.percent(tick), f"{'+' if signed and tick > 1e-9 else ''}{number(tick)}")
        for tick in axis.ticks
    ]
    return Markup('<svg class="interval" width="100%" height="16" aria-hidden="true">{}</svg>').format(
        Markup().join(marks)
    )


def line_chart(title: str, lines: Sequence[Line], logarithmic: bool = False, late: bool = False) -> Markup:
    """A figure of lines over training steps; tooltips are <title> elements. Nothing for no lines.

    late: where the lines rise steeply at first, the axis begins at the lowest value of their later halves.
    """
    lines = [line for line in lines if len(line.values)]
    if not lines:
        return Markup()
    values = [value for line in lines for value in line.values]
    last = max(1, *(step for line in lines for step in line.steps))
    if logarithmic:
        positive = [value for value in values if value > 0]
        vertical = logarithmic_axis(min(positive), max(positive)) if positive else linear_axis(0, 1)
    else:
        low = min(0.0, *values)
        if late:
            later = min(value for line in lines for value in line.values[len(line.values) // 2 :])
            low = later if max(values) - later < CUT * (max(values) - low) else low
        vertical = linear_axis(low, max(values))
    horizontal = Axis(0, last, tuple(tick for tick in linear_axis(0, last, 4).ticks if tick <= last * 1.001))
    scale = ", logarithmic scale" if vertical.logarithmic else ""
    if vertical.low > 0 and not vertical.logarithmic:
        scale = f", from {number(vertical.low)} on"
    return Markup(
        '<figure class="chart"><figcaption>{title}{scale}</figcaption><svg class="plot" role="img" '
        'aria-label="{title}">{grid}<svg width="100%" height="100%" viewBox="0 0 1000 1000" '
        'preserveAspectRatio="none">{drawn}</svg>{points}<text class="label" x="100%" y="100%" dy="32" '
        'text-anchor="end">training step</text></svg></figure>'
    ).format(
        title=title,
        scale=scale,
        grid=_grid(horizontal, vertical),
        drawn=Markup().join(_line(line, horizontal, vertical) for line in lines),
        points=Markup().join(_points(line, horizontal, vertical) for line in lines),
    )


def _grid(horizontal: Axis, vertical: Axis) -> Markup:
    across = Markup(
        '<line class="grid" x1="0" x2="100%" y1="{y}" y2="{y}"/>'
        '<text class="tick" x="-8" y="{y}" dy="4" text-anchor="end">{name}</text>'
    )
    below = Markup('<text class="tick" x="{}" y="100%" dy="16" text-anchor="middle">{}</text>')
    parts = [across.format(y=f"{100 * (1 - vertical.place(tick)):.2f}%", name=number(tick)) for tick in vertical.ticks]
    parts += [below.format(horizontal.percent(tick), number(tick)) for tick in horizontal.ticks]
    return Markup().join(parts)


def _line(line: Line, horizontal: Axis, vertical: Axis) -> Markup:
    points = " ".join(
        f"{1000 * horizontal.place(step):.1f},{1000 * (1 - vertical.place(value)):.1f}"
        for step, value in zip(line.steps, line.values, strict=True)
    )
    return Markup(
        '<polyline class="curve" points="{}" style="stroke:{}" stroke-dasharray="{}" '
        'vector-effect="non-scaling-stroke"><title>{}: {:.3g} at the end</title></polyline>'
    ).format(points, line.style.color, line.style.dash, line.name, line.values[-1])


def _points(line: Line, horizontal: Axis, vertical: Axis) -> Markup:
    """Dots where there are few points, and what shows the tooltips."""
    dot = Markup('<circle class="dot" cx="{x}" cy="{y}" r="2.5" style="fill:{color}"/>')
    touch = Markup(
        '<circle class="touch" cx="{x}" cy="{y}" r="8"><title>{name}, step {step:.0f}: {value:.3g}</title></circle>'
    )
    parts = []
    stride = max(1, -(-len(line.values) // TOUCHED))
    for step, value in list(zip(line.steps, line.values, strict=True))[::stride]:
        if value < vertical.low:
            continue
        place = {"x": horizontal.percent(step), "y": f"{100 * (1 - vertical.place(value)):.2f}%"}
        if len(line.values) <= MARKED:
            parts.append(dot.format(**place, color=line.style.color))
        parts.append(touch.format(**place, name=line.name, step=step, value=value))
    return Markup().join(parts)


def number(value: float) -> str:
    """A tick's number in few letters."""
    if abs(value) < 1e-9:
        return "0"
    if abs(value) < 1e-3:
        return f"{value:.0e}".replace("e-0", "e-")
    if abs(value) >= 10000:
        return f"{value / 1000:g}k"
    return f"{value:.6g}"
