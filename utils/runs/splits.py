"""What a checkpoint predicts for the cases of a split, one whole volume at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from datasets.slices.arrays import class_numbers
from datasets.slices.resampling import stored_millimeters
from datasets.volumes.geometry import spacing_of, voxel_ml
from utils.evaluation.inference import evaluate
from utils.evaluation.kind import IMAGES, kind_of
from utils.evaluation.source_grid import on_source
from utils.evaluation.volumes.cases import Volumes
from utils.evaluation.volumes.pairs import spacing_is_lost
from utils.recipe.schema import Training
from utils.training import checkpoints
from utils.training.launch import launch


class KeptLabels:
    """Keeps the predicted and target labels of a case's slices, in the order it is fed them as a metric is."""

    def __init__(self) -> None:
        self.slices: list[tuple[Tensor, Tensor]] = []

    def update(self, logits: Tensor, target: Tensor, case: str | Sequence[str]) -> None:
        """logits (B, K, H, W), target (B, 1, H, W): see `class_numbers`."""
        self.slices.append((class_numbers(logits).cpu(), target[:, 0].to(torch.uint8).cpu()))

    def compute(self) -> dict[str, float]:
        return {}

    def per_case(self) -> list[dict[str, Any]]:
        return []

    def volumes(self) -> tuple[np.ndarray, np.ndarray]:
        return tuple(torch.cat(parts).numpy() for parts in zip(*self.slices, strict=True))


def check_scorable(checkpoint: dict[str, Any]) -> None:
    """Raises ValueError for a checkpoint, or the description of an exported file, that labels no volumes."""
    if kind_of(checkpoint["preprocessing"]) is IMAGES:
        raise ValueError("the checkpoint classifies images: score it with train.py --mode test")
    if not isinstance(checkpoint["recipe"].get("training"), dict):
        raise ValueError("the checkpoint's recipe has no section training: it was not written by train.py")
    try:
        checkpoints.patients_of(checkpoint["split"], "the checkpoint")
    except ValueError as error:
        raise ValueError(
            f"{error}, or score the labels that predict.py makes with it, with --predictions and --labels"
        ) from None


def predict_cases(
    checkpoint: dict[str, Any],
    dataset: Dataset,
    cases: Sequence[str] | None = None,
    network: nn.Module | None = None,
    as_stored: bool = False,
) -> Iterator[Volumes]:
    """Prediction and target of each case on its source's grid, in the batch size and precision of the run's own test.

    One process, one case in memory at a time. cases: some of the dataset's (None: all). network: what
    predicts instead of the checkpoint's own. as_stored: on the grid that slices are stored on, if that is another.
    """
    recorded = checkpoint["recipe"]["training"]
    wanted = {"batch_size", "precision", "channels_last", "accelerator"}
    training = Training(**{name: value for name, value in recorded.items() if name in wanted})
    if training.accelerator == "cuda" and not torch.cuda.is_available():
        training.accelerator = "cpu"
    fabric = launch(training)
    network = fabric.to_device(checkpoints.rebuild(checkpoint) if network is None else network)
    if training.channels_last:
        network = network.to(memory_format=torch.channels_last)
    source = None if as_stored else on_source(dataset)
    patients = {record.case: record.patient for record in dataset.records}
    for case in dataset.cases if cases is None else cases:
        labels = KeptLabels()
        evaluate(
            fabric,
            network,
            dataset,
            [labels],
            batch_size=training.batch_size,
            channels_last=training.channels_last,
            cases=[case],
            source=source,
            description=case,
        )
        geometry = json.loads((Path(dataset.root) / case / "geometry.json").read_text())
        spacing = [spacing_of(geometry["affine"])[axis] for axis in geometry["axes"]]
        if as_stored:
            spacing = stored_millimeters(geometry)
        yield Volumes(
            case,
            patients[case],
            *labels.volumes(),
            values=frozenset(range(1, dataset.num_classes)),
            spacing=tuple(spacing),
            spacing_lost=spacing_is_lost(geometry["affine"]),
            voxel_ml=voxel_ml(geometry["affine"]),
        )
