"""Pictures of slices: image, target, prediction and difference."""

from __future__ import annotations

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import Dataset

from datasets.slices.transforms import unpad
from utils.evaluation.inference import predict

SHADES = np.array([[228, 26, 28], [55, 126, 184], [255, 217, 47], [77, 175, 74], [152, 78, 163]], np.float32) / 255
MISSED, FALSE_ALARM, RIGHT = np.array([[0.2, 0.5, 1.0], [1.0, 0.25, 0.2], [0.3, 0.85, 0.35]], np.float32)


@torch.no_grad()
def draw_slices(
    fabric: Fabric, network: nn.Module, dataset: Dataset, indices: list[int], channels_last: bool
) -> NDArray[np.float32]:
    """One picture (H, W, 3) in 0..1 with a row a slice: image, target, prediction, difference."""
    rows = []
    was_training = network.training
    network.eval()
    for index in indices:
        sample = dataset[index]
        logits = predict(fabric, network, sample["image"][None], channels_last)
        parts = (sample["image"][0], sample["target"][0], logits[0].cpu().max(0).indices)
        rows.append(draw_slice(*(unpad(part, sample["size"]).numpy() for part in parts)))
    network.train(was_training)
    width = max(row.shape[1] for row in rows)
    return np.concatenate([np.pad(row, ((0, 4), (0, width - row.shape[1]), (0, 0))) for row in rows])


def draw_slice(
    image: NDArray[np.floating], target: NDArray[np.integer], prediction: NDArray[np.integer]
) -> NDArray[np.float32]:
    """One row of a picture: image, target, prediction and difference, side by side, (H, 4 W, 3) in 0..1.

    All are (H, W). In the difference, green is right, blue missed, red a false alarm or a wrong class.
    """
    low, high = float(image.min()), float(image.max())
    gray = np.repeat(((image - low) / max(high - low, 1e-6))[..., None], 3, axis=2).astype(np.float32)
    difference = gray.copy()
    for where, shade in (
        ((target > 0) & (prediction == target), RIGHT),
        ((target > 0) & (prediction == 0), MISSED),
        ((prediction > 0) & (prediction != target), FALSE_ALARM),
    ):
        difference[where] = 0.35 * difference[where] + 0.65 * shade
    row = np.concatenate([gray, _overlay(gray, target), _overlay(gray, prediction), difference], axis=1)
    enlarge = max(1, 192 // image.shape[0])
    return np.kron(row, np.ones((enlarge, enlarge, 1), np.float32))


def _overlay(gray: NDArray[np.float32], labels: NDArray[np.integer]) -> NDArray[np.float32]:
    overlay = gray.copy()
    inside = labels > 0
    overlay[inside] = 0.45 * overlay[inside] + 0.55 * SHADES[(labels[inside] - 1) % len(SHADES)]
    return overlay
