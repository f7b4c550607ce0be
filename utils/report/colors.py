"""How lines are drawn, in colors that people with color-blindness can tell apart (Okabe and Ito 2008).

A network has a hue; teacher, student alone and each method have a dash: two ways to tell every line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import yaml

from utils.runs.groups import Group

HUES = 6  # --hue-1 ... in page.css
ALONE_DASH = "2 4"
METHOD_DASHES = ("", "9 4", "9 3 2 3", "14 3 2 3 2 3")


@dataclass(frozen=True)
class Style:
    """How a line is drawn: a CSS color and a dash pattern."""

    color: str
    dash: str = ""


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
        if name == "task":
            styles[name] = Style("var(--ink)")
        else:
            turn, hue = divmod(number - 1, HUES)
            styles[name] = Style(f"var(--hue-{hue + 1})", METHOD_DASHES[turn % len(METHOD_DASHES)])
    return styles
