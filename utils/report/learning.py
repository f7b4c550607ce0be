"""Learning curves of all runs, and the terms of each distilled run's loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from utils.report.charts import Line, line_chart
from utils.report.colors import Style, term_styles
from utils.report.curves import Curve, term_names
from utils.report.markup import details, legend, swatch, text
from utils.runs.groups import Group

Curves = Mapping[Path, Mapping[str, Curve]]


def show_learning(groups: Sequence[Group], curves: Curves, styles: Mapping[str, Style]) -> str:
    """Task loss on train and the selecting score on val; every seed is a line."""
    score = groups[0].first.selects
    charts = []
    for title, tag, logarithmic in (
        ("Task loss on train", "terms/task", True),
        (f"{score.replace('_', ' ').capitalize()} on val", f"val/{score}", False),
    ):
        lines = [
            Line(f"{group.name}, seed {run.recipe.get('seed', 0)}", curve.steps, curve.values, styles[group.name])
            for group in groups
            for run in group.runs
            if (curve := curves.get(run.folder, {}).get(tag))
        ]
        charts.append(line_chart(title, lines, "training step", logarithmic, late=not logarithmic))
    shown = {group.name: styles[group.name] for group in groups if any(run.folder in curves for run in group.runs)}
    entries = [(swatch(style.color, style.dash), name) for name, style in shown.items()]
    return f'<div class="charts">{"".join(charts)}</div>{legend(entries)}'


def show_terms(groups: Sequence[Group], curves: Curves) -> str:
    """For each distilled run: its terms raw, as they are weighed, and their shares of the gradient; seeds folded."""
    blocks = []
    for group in groups:
        for number, run in enumerate(group.runs):
            mine = curves.get(run.folder, {})
            names = term_names(mine)
            if group.role != "distilled" or len(names) < 2:
                continue
            title = f"{text(group.name)} <small>{text(run.folder.name)}</small>"
            block = _terms(mine, names)
            blocks.append(f"<h3>{title}</h3>{block}" if number == 0 else details(title, block))
    return "".join(blocks)


def _terms(curves: Mapping[str, Curve], names: Sequence[str]) -> str:
    styles = term_styles(names)

    def lines(kind: str) -> list[Line]:
        tags = {name: f"{kind}/{name}" for name in names}
        return [
            Line(name, curves[tag].steps, curves[tag].values, styles[name])
            for name, tag in tags.items()
            if tag in curves
        ]

    charts = [
        line_chart("Terms as computed", lines("terms"), "training step", logarithmic=True),
        line_chart("Terms as weighed", lines("weighted"), "training step", logarithmic=True),
        line_chart("Share of the gradient's norm", lines("gradient_share"), "training step"),
    ]
    entries = [(swatch(styles[name].color, styles[name].dash), name) for name in names]
    return f'<div class="charts three">{"".join(charts)}</div>{legend(entries)}'
