"""Training where no label is seen: what takes the place of the labels, and what is refused without them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from datasets.slices.soft_classes import BACKGROUND
from datasets.slices.soft_maps import read_maps
from datasets.slices.store import read_manifest
from utils.distillation.terms import asks_teacher
from utils.recipe.schema import DistillationRecipe, Recipe, soft_folders
from utils.training import checkpoints

NOT_TAUGHT = "give a teacher to train_kd.py"


def without_labels(recipe: Recipe) -> Recipe:
    """The recipe as it runs: with `task_loss: null` nothing reads a label.

    Then the labels of a store that has some are held back; the classes of one without are the teacher's. The best epoch
    is chosen by agreement with the teacher, unless `metric.against` is `labels`. Raises ValueError where labels are
    needed and there are none, and where there is no teacher.
    """
    labeled, root = _has_labels(recipe.data), recipe.data.get("root")
    if recipe.task_loss is not None and not labeled:
        raise ValueError(f"task_loss: {root} has no labels: set task_loss to null and {NOT_TAUGHT}, or give other data")
    taught = isinstance(recipe, DistillationRecipe) and bool(recipe.teacher) and asks_teacher(recipe.distillation)
    against = recipe.metric.get("against", "labels" if recipe.task_loss is not None else "teacher")
    if against == "teacher" and not taught:
        key = "task_loss: null" if recipe.task_loss is None else "metric.against: teacher"
        raise ValueError(f"{key}: there is no teacher to learn from: {NOT_TAUGHT}")
    if against == "labels" and not labeled:
        raise ValueError(f"metric.against: {root} has no labels: leave it out")
    if recipe.task_loss is not None:
        return recipe
    if recipe.data.get("name") != "slices":
        raise ValueError("task_loss: null is for slices of volumes: give a task loss")
    assert isinstance(recipe, DistillationRecipe)
    data = recipe.data | {"labeled": 0.0} if labeled else _classes_of(recipe.teacher) | recipe.data
    metric = {**recipe.metric, "against": against}
    return replace(recipe, data=data, metric=metric, distillation_share=None)


def _has_labels(data: Mapping[str, Any]) -> bool:
    return data.get("name") != "slices" or "root" not in data or bool(read_manifest(data["root"])["labels"])


def _classes_of(teacher: str | Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a data section that say which classes the teacher knows, by the names that the recipe gives them."""
    if not isinstance(teacher, str):
        table = teacher.get("classes", {})
        names = [table.get(name, name) for name in read_maps(soft_folders(dict(teacher))[0]).classes]
        return {"class_names": [name for name in dict.fromkeys(names) if name != BACKGROUND]}
    preprocessing = checkpoints.load(teacher)["preprocessing"]
    return {"task": preprocessing["task"], "class_names": list(preprocessing["class_names"])}


def against(metric: Mapping[str, Any], whose: str) -> dict[str, Any]:
    """A metric's section with other targets: `labels` or a `teacher`'s answers, where it can take either."""
    return {**metric, "against": whose} if "against" in metric else dict(metric)
