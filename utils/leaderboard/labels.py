"""A leaderboard needs labels: it shows what a method adds to a student that learned from these alone."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import yaml

from utils.leaderboard.identity import recipe_content
from utils.leaderboard.plan import Plan, PlannedRun, calibration_runs, method_runs, plain_runs


def refuse_no_labels(plan: Plan) -> None:
    """Raises ValueError where a run of a student has `task_loss: null`, by its recipe, its method or its flags."""
    for run in [*plain_runs(plan), *calibration_runs(plan), *method_runs(plan)]:
        if where := _without_labels(run):
            raise ValueError(
                f"{where}: task_loss is null, so {run.name} would learn from no label, and the student alone, with "
                "which a leaderboard compares every method, from nothing: give a task_loss, or train the methods by "
                "train_kd.py and compare these runs by scripts/compare.py"
            )


def _without_labels(run: PlannedRun) -> str | None:
    """The file or flag that takes a run its task loss; None where it has one."""
    last: tuple[str, object] = ("", "")
    for config in run.configs:
        content = None
        with suppress(ValueError, OSError):  # a recipe that cannot be read ends its own runs alone
            content = recipe_content(Path(config))
        if isinstance(content, dict) and "task_loss" in content:
            last = config, content["task_loss"]
    for part, following in pairwise([*run.flags, ""]):
        flag, separator, value = part.partition("=")
        if flag == "--task_loss":
            last = flag, yaml.safe_load(value if separator else following)
    return last[0] if last[1] is None else None
