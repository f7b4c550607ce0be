"""Learning curves from TensorBoard's event files: scores and losses of all runs, and the terms of distilled ones."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup

from utils.report.charts import Line, Style, line_chart, term_styles
from utils.runs.groups import Group

POINTS = 160  # of a curve at most: more cannot be told apart on a page


@dataclass(frozen=True)
class Curve:
    """Values by training step."""

    steps: list[float]
    values: list[float]


@dataclass(frozen=True)
class Charts:
    """Charts with one legend; `group` and `run` name whose they are, where they are of one run."""

    charts: list[Markup]
    legend: dict[str, Style]
    group: str = ""
    run: str = ""
    folded: bool = False


def read_curves(folder: Path) -> dict[str, Curve]:
    """Every scalar of a run by its tag. Raises ValueError where the folder (or one in it) holds no event file."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it warns of every run that was resumed
    folders = sorted({file.parent for file in folder.rglob("events.out.tfevents.*")})
    if not folders:
        raise ValueError(f"{folder}: has no TensorBoard event file, so no curves")
    curves: dict[str, Curve] = {}
    for place in folders:
        events = EventAccumulator(str(place), size_guidance={"scalars": 0, "images": 1})
        events.Reload()
        for tag in events.Tags()["scalars"]:
            points = [(event.step, event.value) for event in events.Scalars(tag) if np.isfinite(event.value)]
            if points:
                curves[tag] = thinned(*zip(*points, strict=True))
    return curves


def thinned(steps: tuple[float, ...], values: tuple[float, ...], points: int = POINTS) -> Curve:
    """At most `points` points: means of as many neighbors as that needs; the last point is kept as it is."""
    share = -(-len(steps) // points)
    if share == 1:
        return Curve(list(steps), list(values))
    parts = [slice(start, start + share) for start in range(0, len(steps) - 1, share)]
    return Curve(
        [*(float(np.mean(steps[part])) for part in parts), steps[-1]],
        [*(float(np.mean(values[part])) for part in parts), values[-1]],
    )


def learning_charts(
    groups: Sequence[Group], curves: Mapping[Path, Mapping[str, Curve]], styles: Mapping[str, Style]
) -> Charts:
    """Task loss on train and the selecting score on val; every seed is a line."""
    score = groups[0].first.selects

    def lines(tag: str) -> list[Line]:
        return [
            Line(f"{group.name}, seed {run.seed}", curve.steps, curve.values, styles[group.name])
            for group in groups
            for run in group.runs
            if (curve := curves.get(run.folder, {}).get(tag))
        ]

    charts = [
        line_chart("Task loss on train", lines("terms/task"), logarithmic=True),
        line_chart(f"{score.replace('_', ' ').capitalize()} on val", lines(f"val/{score}"), late=True),
    ]
    shown = [group.name for group in groups if any(run.folder in curves for run in group.runs)]
    return Charts(charts, {name: styles[name] for name in shown})


def term_charts(groups: Sequence[Group], curves: Mapping[Path, Mapping[str, Curve]]) -> list[Charts]:
    """For each distilled run: its terms raw, as they are weighed, and their shares of the gradient; seeds folded."""
    found = []
    for group in groups:
        for number, run in enumerate(group.runs):
            mine = curves.get(run.folder, {})
            names = [tag.removeprefix("terms/") for tag in mine if tag.startswith("terms/")]
            names.sort(key=lambda name: name != "task")
            if group.role != "distilled" or len(names) < 2:
                continue
            styles = term_styles(names)
            charts = [
                line_chart(title, _term_lines(mine, styles, kind), logarithmic=kind != "gradient_share")
                for title, kind in (
                    ("Terms as computed", "terms"),
                    ("Terms as weighed", "weighted"),
                    ("Share of the gradient's norm", "gradient_share"),
                )
            ]
            found.append(Charts(charts, styles, group.name, run.folder.name, folded=number > 0))
    return found


def _term_lines(curves: Mapping[str, Curve], styles: Mapping[str, Style], kind: str) -> list[Line]:
    return [
        Line(name, curve.steps, curve.values, style)
        for name, style in styles.items()
        if (curve := curves.get(f"{kind}/{name}"))
    ]
