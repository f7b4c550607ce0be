"""The recipes of configs/methods, what they are for, and features that they can be tried on."""

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
# channels and side of each tap, for a 64x64 image
STUDENT = {"encoder1": (8, 32), "encoder2": (8, 16), "encoder3": (12, 8), "encoder4": (16, 4), "bottleneck": (20, 2)}
TEACHER = {**STUDENT, "encoder2": (10, 16), "bottleneck": (24, 2), "decoder4": (16, 4), "decoder3": (12, 8)}
TEACHER |= {"decoder2": (8, 16), "decoder1": (8, 32)}
STAGES = {"encoder1": (4, 8, 8), "encoder2": (6, 4, 4), "encoder3": (8, 2, 2)}  # HDKD: equal on both sides
VIT = {"block4": (10, 8), "block8": (10, 8), "tokens": (10, 8), "embedding": (8,)}  # a class token and 3x3 patches
SWIN = {"encoder2": (4, 6, 6), "encoder3": (8, 3, 3), "encoder4": (16, 3, 3), "embedding": (16,)}


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


def features(shapes: dict[str, tuple[int, int]], seed: int, num_classes: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = shapes | {"logits": (num_classes, 64)}
    return {name: torch.randn(2, c, size, size, generator=generator).relu() for name, (c, size) in shapes.items()}


def pick(side: dict, taps: str | list[str]):
    return side[taps] if isinstance(taps, str) else [side[tap] for tap in taps]


def of_images(shapes: dict[str, tuple[int, ...]], seed: int, num_classes: int = 3) -> dict[str, torch.Tensor]:
    """Features of three images, and every head that a classification network may have."""
    generator = torch.Generator().manual_seed(seed)
    shapes = shapes | dict.fromkeys(("logits", "class_logits", "distillation_logits"), (num_classes,))
    return {name: torch.randn(3, *shape, generator=generator) for name, shape in shapes.items()}


def sides(name: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], torch.Tensor]:
    """Student, teacher and target of a classification method; ISIC has two classes."""
    shapes = (STAGES, STAGES) if name in HDKD else (VIT, SWIN)
    num_classes = 2 if name in ISIC else 3
    student, teacher = (of_images(side, seed, num_classes) for seed, side in enumerate(shapes))
    return {tap: value.requires_grad_() for tap, value in student.items()}, teacher, torch.tensor([0, 1, 1])
