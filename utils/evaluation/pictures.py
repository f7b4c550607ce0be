"""What TensorBoard and OUTPUT/test_*.png show: slices with their classes and errors, or images with answers and the
confusion matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import Dataset

from datasets.slices.neighbors import middle
from datasets.slices.transforms import unpad
from utils.evaluation.drawing import (
    GAP,
    INK,
    RIGHT,
    SIDE,
    WRONG,
    Pixels,
    captioned,
    contact_sheet,
    draw_confusion,
    gray,
    image_pixels,
    whole_frame,
    with_classes,
    with_errors,
)
from utils.evaluation.inference import Targets, case_batches, predict
from utils.evaluation.kind import IMAGES, kind_of
from utils.evaluation.metrics.classification import confusion

COLUMNS = 8  # images side by side
READ_AT_ONCE = 8  # slices, of which one is chosen

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def representative(dataset: Dataset, count: int) -> list[int]:
    """Indices of samples that show much, the same every time: the slice with most foreground of each of the first
    `count` cases; `count` images, the first of each class, then the second of each, and so on."""
    if kind_of(dataset.preprocessing) is IMAGES:
        by_class: dict[int, list[int]] = {}
        for index, label in enumerate(dataset.labels):
            by_class.setdefault(int(label), []).append(index)
        turns = [(turn, label, index) for label, found in by_class.items() for turn, index in enumerate(found)]
        return [index for _, _, index in sorted(turns)[:count]]
    indices = []
    for case, slices in list(dataset.case_indices().items())[:count]:
        targets = (dataset.gather(part)["target"] for part in case_batches(dataset, [case], READ_AT_ONCE))
        areas = torch.cat([(target > 0).flatten(1).sum(1, dtype=torch.int32) for target in targets]).tolist()
        indices.append(slices[int(np.argmax(areas)) if any(areas) else len(slices) // 2])
    return indices


@torch.no_grad()
def draw(
    fabric: Fabric,
    network: nn.Module,
    teacher: nn.Module | None,
    dataset: Dataset,
    indices: list[int],
    rows: list[dict[str, Any]],
    channels_last: bool,
    targets: Targets | None = None,
) -> dict[str, NDArray[np.float32]]:
    """Pictures (H, W, 3) in 0..1 by name; `rows` are the metric's, one a case. targets: as for `evaluate`."""
    was_training = network.training
    network.eval()
    if kind_of(dataset.preprocessing) is IMAGES:
        networks = {"student" if teacher else "network": network} | ({"teacher": teacher} if teacher else {})
        pictures = {
            "answers": _answers(fabric, networks, dataset, indices, channels_last),
            "confusion": draw_confusion(confusion_counts(rows, dataset.class_names), dataset.class_names),
        }
    else:
        name = "image, target, prediction, difference" if targets is None else "image, teacher, student, difference"
        pictures = {name: _slices(fabric, network, dataset, indices, channels_last, targets)}
    network.train(was_training)
    return {name: picture.astype(np.float32) / 255 for name, picture in pictures.items()}


def draw_slice(image: NDArray, target: NDArray[np.integer], prediction: NDArray[np.integer]) -> Pixels:
    """Image, target, prediction and errors of a slice (H, W), side by side."""
    frame = whole_frame(image.shape, side=max(SIDE, *image.shape))
    base = gray(image, float(image.min()), float(image.max()), frame)
    both = (with_classes(base, labels, frame) for labels in (target, prediction))
    return np.concatenate([base, *both, with_errors(base, target, prediction, frame)], 1)


def confusion_counts(rows: Sequence[dict[str, Any]], class_names: Sequence[str]) -> NDArray[np.int64]:
    """Images by target (row) and answer (column), from the rows of a metric."""
    answers = np.array([[row["target"], row["prediction"]] for row in rows])
    return confusion(answers[:, 0], answers[:, 1], len(class_names))


def _slices(
    fabric: Fabric,
    network: nn.Module,
    dataset: Dataset,
    indices: Sequence[int],
    channels_last: bool,
    targets: Targets | None,
) -> Pixels:
    rows = []
    for index in indices:
        sample = dataset.batch([index])
        logits = predict(fabric, network, sample["image"], channels_last)
        target = sample["target"] if targets is None else targets(sample)
        parts = (middle(sample["image"], 1)[0, 0], target[0, 0], logits[0].argmax(0))
        rows.append(draw_slice(*(unpad(part, sample["size"]).cpu().numpy() for part in parts)))
    width = max(row.shape[1] for row in rows)
    return np.concatenate([np.pad(row, ((0, GAP), (0, width - row.shape[1]), (0, 0))) for row in rows])


def _answers(
    fabric: Fabric, networks: dict[str, nn.Module], dataset: Dataset, indices: Sequence[int], channels_last: bool
) -> Pixels:
    """A grid of images; below each its target, and each network's answer with its probability."""
    samples = dataset.batch(indices)
    answers = {
        name: predict(fabric, network.eval(), samples["image"], channels_last).softmax(1).cpu().max(1)
        for name, network in networks.items()
    }
    names, scaling = dataset.class_names, (dataset.preprocessing["mean"], dataset.preprocessing["std"])
    cells = []
    for number, (image, target) in enumerate(zip(samples["image"].cpu(), samples["target"].tolist(), strict=True)):
        lines = [[("target: ", INK), (names[target], INK)]]
        for name, (probability, answer) in answers.items():
            given = int(answer[number])
            ink = RIGHT if given == target else WRONG
            lines.append([(f"{name}: ", ink), (names[given], ink), (f" {float(probability[number]):.2f}", ink)])
        cells.append(captioned([image_pixels(image.numpy(), *scaling)], lines))
    return contact_sheet({"": cells}, min(len(cells), COLUMNS))
