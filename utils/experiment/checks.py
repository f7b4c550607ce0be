"""What is checked of a network, its task loss, its metric and its data before the first step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from utils.distillation.taps import tap
from utils.distillation.terms import Task
from utils.evaluation.kind import IMAGES, kind_of
from utils.evaluation.shapes import only_shapes, shapes_of
from utils.recipe.contracts import Metric, Samples


def refuse_misfit(network: nn.Module, task: Task | None, metric: Metric, sample: dict[str, Any]) -> None:
    """Raises ValueError when network, task loss, metric and data do not agree: maps here, one answer an image there.

    Only shapes pass through the network.
    """
    copy, place = shapes_of(network).eval(), "logits" if task is None else task.on
    with only_shapes():
        features = tap(copy, sample["image"][None].to("meta"), [place])
    target = sample["target"][None].clamp(min=0)  # -1: unlabeled
    zeros = {name: torch.zeros(feature.shape) for name, feature in features.items()}
    try:
        if task is not None:
            task(zeros, target)
        metric.update(zeros["logits"], target, [sample["case"]])
    except (ValueError, RuntimeError, IndexError) as error:
        logits, wanted = (tuple(value.shape[1:]) for value in (zeros[place], target))
        raise ValueError(
            f"{type(network).__name__} answers an image with {logits}, its target is {wanted or 'one class'}: network, "
            f"task_loss, metric and data do not belong together ({' '.join(str(error).split())[:200]})"
        ) from None


def refuse_lonely(network: nn.Module, image: Tensor, batch_size: int, count: int) -> None:
    """Raises ValueError when a batch has one image and the network normalizes over batches of more.

    image (C, H, W); batch_size: images normalized together; count: images to train on. Only shapes pass through the
    network.
    """
    if min(batch_size, count) > 1:
        return
    copy = shapes_of(network).train()
    with torch.device("meta"):
        try:
            copy(image[None].to("meta"))
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            key = "training.batch_size" if batch_size == 1 else "the data: more than one image to train on"
            raise ValueError(
                f"{type(network).__name__} normalizes over a batch, and one image is not enough: raise {key}"
            ) from None


def refuse_val_without(metric: Metric, val: Samples) -> str | None:
    """Raises ValueError when val lacks the classes that the selecting score is taken over.

    Returns a line to print when val lacks only some of them.
    """
    if kind_of(val.preprocessing) is IMAGES:
        metric.update(torch.zeros(len(val), val.num_classes), torch.tensor(val.labels), val.cases)
        if metric.selects in metric.compute():
            return None
        counts = ", ".join(f"{count} {name}" for count, name in zip(val.class_counts, val.class_names, strict=True))
        raise ValueError(
            f"metric: {metric.selects} cannot be taken over val, which holds {counts}; set metric.select to accuracy, "
            "or give val more images (another split_seed, val_fraction or ratios)"
        )
    absent = [name for name in val.class_names if name not in val.shown_classes]
    what, rule = f"none of the {len(val.cases)} val cases shows {' or '.join(absent)}", metric.empty_mask_rule
    if len(absent) == len(val.class_names):
        raise ValueError(
            f"metric: {what}, so {metric.selects} would select a network that finds nothing ({rule}); slice again with "
            "another split, or set another data.task"
        )
    if absent:
        return (
            f"{what}; {metric.selects}, which selects, is the mean over {', '.join(val.class_names)} and rewards "
            f"finding nothing there ({rule})"
        )
    return None
