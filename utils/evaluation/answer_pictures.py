"""Pictures of classification: images with what was asked and answered, and the confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import nn
from torch.utils.data import Dataset

from utils.evaluation.inference import predict
from utils.evaluation.metrics.classification import confusion

CELL = 160  # pixels: width of an image in the grid
LINE = 15
Ink = tuple[int, int, int]
RIGHT, WRONG, INK = (20, 120, 40), (190, 30, 30), (20, 20, 20)


@torch.no_grad()
def draw_answers(
    fabric: Fabric, networks: dict[str, nn.Module], dataset: Dataset, indices: Sequence[int], channels_last: bool
) -> NDArray[np.float32]:
    """A grid (H, W, 3) in 0..1 of images; below each its target, and each network's answer with its probability."""
    samples = [dataset[index] for index in indices]
    images = torch.stack([sample["image"] for sample in samples])
    answers = {}
    for name, network in networks.items():
        was_training = network.training
        network.eval()
        answers[name] = predict(fabric, network, images, channels_last).softmax(1).cpu().max(1)
        network.train(was_training)
    cells = []
    for number, sample in enumerate(samples):
        target = int(sample["target"])
        lines = [("target: ", dataset.class_names[target], "", INK)]
        for name, (probability, answer) in answers.items():
            given = int(answer[number])
            ink = RIGHT if given == target else WRONG
            lines.append((f"{name}: ", dataset.class_names[given], f" {float(probability[number]):.2f}", ink))
        cells.append(_cell(_shown(sample["image"], dataset.preprocessing), lines))
    columns = min(len(cells), 8)
    blank = np.full_like(cells[0], 255)
    cells += [blank] * (-len(cells) % columns)
    rows = [np.concatenate(cells[start : start + columns], 1) for start in range(0, len(cells), columns)]
    return np.concatenate(rows).astype(np.float32) / 255


def draw_confusion(rows: Sequence[dict[str, Any]], class_names: Sequence[str]) -> NDArray[np.float32]:
    """The confusion matrix (H, W, 3) in 0..1: a row a target, a column a prediction, the darker the larger its share
    of the row; numbers are images."""
    classes = len(class_names)
    answers = np.array([[row["target"], row["prediction"]] for row in rows])
    counts = confusion(answers[:, 0], answers[:, 1], classes)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    font = ImageFont.load_default(12)
    margin = 12 + max(int(font.getlength(name)) for name in class_names)
    side = 52
    # Column names are their numbers: names side by side would overlap.
    picture = Image.new("RGB", (margin + 24 + classes * side, 40 + classes * side), "white")
    pen = ImageDraw.Draw(picture)
    pen.text((margin + 24, 4), "prediction (columns), target (rows)", INK, font)
    for number, name in enumerate(class_names):
        pen.text((6, 40 + side * number + side // 2 - 7), name, INK, font)
        pen.text((margin + 4, 40 + side * number + side // 2 - 7), str(number), INK, font)
        pen.text((margin + 24 + side * number + side // 2, 30), str(number), INK, font, anchor="mm")
        for other in range(classes):
            left, top = margin + 24 + side * other, 40 + side * number
            shade = tuple(round(255 - (255 - full) * share[number, other]) for full in (30, 90, 160))
            pen.rectangle((left, top, left + side - 2, top + side - 2), shade)
            ink = (255, 255, 255) if share[number, other] > 0.5 else INK
            middle = (left + side // 2, top + side // 2)
            pen.text(middle, str(counts[number, other]), ink, font, anchor="mm")
    return np.asarray(picture, np.float32) / 255


def _shown(image: torch.Tensor, preprocessing: dict[str, Any]) -> NDArray[np.uint8]:
    """The image (C, H, W) before normalization, (H, W, 3)."""
    mean, std = (torch.tensor(preprocessing[key]).view(-1, 1, 1) for key in ("mean", "std"))
    shown = (image * std + mean).clamp(0, 1).expand(3, -1, -1)
    return (shown.permute(1, 2, 0).numpy() * 255).astype(np.uint8)


def _cell(image: NDArray[np.uint8], lines: Sequence[tuple[str, str, str, Ink]]) -> NDArray[np.uint8]:
    """The image with lines of text below it, at a width of CELL; the middle of a line that is too long is shortened."""
    font = ImageFont.load_default(11)
    cell = Image.new("RGB", (CELL, CELL + LINE * len(lines) + 6), "white")
    cell.paste(Image.fromarray(image).resize((CELL - 6, CELL - 6), Image.Resampling.NEAREST), (3, 3))
    pen = ImageDraw.Draw(cell)
    for number, (before, name, after, ink) in enumerate(lines):
        lengths = range(len(name), -1, -1)
        texts = [before + name + after, *(f"{before}{name[:length]}…{after}" for length in lengths)]
        text = next((text for text in texts if font.getlength(text) <= CELL - 8), texts[-1])
        pen.text((4, CELL - 2 + LINE * number), text, ink, font)
    return np.asarray(cell)
