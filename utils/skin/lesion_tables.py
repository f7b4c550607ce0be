"""Lesions of ISIC 2024 as tables: what a student sees of them, and what the metadata say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import Dataset
from tqdm import tqdm

from datasets.images.isic_metadata import read_metadata
from utils.evaluation.inference import case_batches
from utils.runs.data import open_split
from utils.skin.boosting import Table
from utils.skin.embeddings import embed
from utils.training.loading import Loader


@dataclass(frozen=True)
class Lesions:
    """One split, N lesions.

    Args:
        cases: Their names.
        patients: The patient of each.
        target: (N,), 1 is malignant.
        student: (N,), the student's probability of malignant.
        tables: `metadata`, `embedding` and `both`.
    """

    cases: list[str]
    patients: list[str]
    target: NDArray[np.int64]
    student: NDArray[np.float64]
    tables: dict[str, Table]


def read_lesion_tables(
    fabric: Fabric,
    network: nn.Module,
    student: dict[str, Any],
    data: dict[str, Any],
    split: Literal["val", "test"],
    columns: Sequence[str] | Literal["all"],
    taps: Sequence[str],
    batch_size: int,
    workers: int,
) -> Lesions:
    """Embed every lesion of a split and read its metadata.

    `student` is a checkpoint, `network` its network, `data` the section of a recipe for ISIC 2024.
    Raises ValueError when the student has seen a patient of the split, and for columns that leak.
    """
    source = student | {"recipe": student["recipe"] | {"data": data}}
    dataset = open_split(source, split, same_split=False, where="the student")
    metadata = read_metadata(data["root"], columns, dataset.cases)
    known = Table(metadata.values, tuple(metadata.columns.index(name) for name in metadata.categories))
    probability, embedding = look(fabric, network, dataset, taps, batch_size, workers)
    seen = Table(embedding)
    tables = {"metadata": known, "embedding": seen, "both": seen.beside(known)}
    patients = [record.patient for record in dataset.records]
    return Lesions(dataset.cases, patients, np.array(dataset.labels), probability, tables)


def look(
    fabric: Fabric, network: nn.Module, dataset: Dataset, taps: Sequence[str], batch_size: int, workers: int
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """The student's probability of malignant (N,) and its embedding (N, D) of every image."""
    batches = case_batches(dataset, dataset.cases, batch_size)
    images = (batch["image"] for batch in Loader(dataset, fabric.device, workers)(batches))
    answers = tqdm(embed(fabric, network, taps, images), dataset.split, len(batches), unit="batch", disable=None)
    embeddings, logits = zip(*answers, strict=True)
    probability = np.concatenate([part.double().softmax(1)[:, 1].numpy() for part in logits])
    return probability, np.concatenate([part.numpy() for part in embeddings])
