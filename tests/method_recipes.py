"""The recipes of configs/methods, and what they are for."""

from pathlib import Path
from typing import Any

import torch
import yaml

from utils.distillation.losses import DISTILLATION_LOSSES, TASK_LOSSES
from utils.recipe.registry import build

METHODS = {path.stem: path for path in sorted((Path(__file__).parents[1] / "configs" / "methods").glob("*.yaml"))}
HDKD = ["hdkd", "hdkd_as_published", "hdkd_hard"]
ISIC = ["combined", "feature", "response", "token"]
ISIC += [f"{name}_as_published" for name in ISIC if name != "response"]
LOGITS = ["decoupled", "logit_standardization", "skin_lesion"]
WHOLE_IMAGES = [*HDKD, *ISIC, *LOGITS]
THREE_CLASSES = ["dist"]  # methods for masks that two classes cannot serve
MASKS = [name for name in METHODS if name not in WHOLE_IMAGES]


def content(name: str) -> dict[str, Any]:
    recipe = yaml.safe_load(METHODS[name].read_text())
    if "task_loss" in recipe:  # YAML reads a bare `on` as true; so does a recipe (utils/recipe/schema.py)
        recipe["task_loss"] = {"on" if key is True else key: value for key, value in recipe["task_loss"].items()}
    return recipe


def read(name: str, num_classes: int = 3) -> tuple[torch.nn.Module, list[tuple]]:
    """The task loss, and (loss, student taps, teacher taps, weight) for each entry."""
    recipe = content(name)
    assert recipe.keys() <= {"network", "task_loss", "task_weight", "distillation"}
    task = recipe.get("task_loss", {"name": "cross_entropy" if name in WHOLE_IMAGES else "dice_focal"})
    task.pop("on", None)
    terms = []
    for entry in recipe["distillation"]:
        places = [entry.pop(key) for key in ("student", "teacher", "weight")]
        terms.append((build(DISTILLATION_LOSSES, entry, name, num_classes=num_classes), *places))
    return TASK_LOSSES[task.pop("name")](**task), terms
