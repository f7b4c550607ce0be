"""Learning curves from TensorBoard's event files."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

POINTS = 160  # of a curve at most: more cannot be told apart on a page


@dataclass(frozen=True)
class Curve:
    """Values by training step."""

    steps: list[float]
    values: list[float]


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


def term_names(curves: dict[str, Curve]) -> list[str]:
    """The terms of a loss, the task loss first."""
    names = [tag.removeprefix("terms/") for tag in curves if tag.startswith("terms/")]
    return sorted(names, key=lambda name: name != "task")
