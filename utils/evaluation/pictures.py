"""What TensorBoard shows of val: slices with masks, or images with answers and the confusion matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import Dataset

from utils.evaluation.answer_pictures import draw_answers, draw_confusion
from utils.evaluation.slice_pictures import draw_slices


def telling(dataset: Dataset, count: int) -> list[int]:
    """The same samples every time: of each of the first `count` cases the slice with most foreground; of images one of
    each class in turn."""
    if dataset.one_size:
        return _of_each_class(dataset, count)
    indices = []
    for slices in list(dataset.case_indices().values())[:count]:
        areas = [int((dataset[index]["target"] > 0).sum()) for index in slices]
        indices.append(slices[int(np.argmax(areas))])
    return indices


def draw(
    fabric: Fabric,
    network: nn.Module,
    teacher: nn.Module | None,
    dataset: Dataset,
    indices: list[int],
    rows: list[dict[str, Any]],
    channels_last: bool,
) -> dict[str, NDArray[np.float32]]:
    """Pictures (H, W, 3) in 0..1 by name; `rows` are the metric's, one a case."""
    if not dataset.one_size:
        picture = draw_slices(fabric, network, dataset, indices, channels_last)
        return {"image, target, prediction, difference": picture}
    networks = {"student" if teacher else "network": network} | ({"teacher": teacher} if teacher else {})
    return {
        "answers": draw_answers(fabric, networks, dataset, indices, channels_last),
        "confusion": draw_confusion(rows, dataset.class_names),
    }


def _of_each_class(dataset: Dataset, count: int) -> list[int]:
    """Indices of `count` images: the first of each class, then the second of each, ..."""
    by_class: dict[int, list[int]] = {}
    for index, label in enumerate(dataset.labels):
        by_class.setdefault(int(label), []).append(index)
    turns = max((len(members) for members in by_class.values()), default=0)
    ordered = [members[turn] for turn in range(turns) for _, members in sorted(by_class.items()) if turn < len(members)]
    return ordered[:count]
