"""Predicts the classes of image files; an unreadable one is reported and the rest finish."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datasets.files import replacing
from datasets.images.decoding import UnreadableImageError, decode
from datasets.images.transforms import Preparation
from utils.prediction.predictor import Predictor

TABLE = "predictions.csv"


def classify_files(
    predictor: Predictor, files: Sequence[Path], problem: Callable[[str], Any]
) -> Iterator[tuple[Path, np.ndarray | None]]:
    """Yield every file with its probabilities (K,), or None for one that cannot be read, with a line for `problem`."""
    preparations = []
    for network in predictor.networks:
        size, channels, mean, std = (network.preprocessing[key] for key in ("image_size", "in_channels", "mean", "std"))
        preparations.append(Preparation(size, channels, tuple(mean), tuple(std)))
    for start in range(0, len(files), predictor.batch_size):
        read, images = [], []
        for file in files[start : start + predictor.batch_size]:
            try:
                images.append(decode(file, str(file)))
                read.append(file)
            except UnreadableImageError as error:
                problem(str(error))
                yield file, None
        if images:
            inputs = [
                torch.stack([each.normalize(each.resize(image)) for image in images]).numpy() for each in preparations
            ]
            yield from zip(read, predictor.classify(inputs), strict=True)


def write_table(path: Path, root: Path, rows: Sequence[tuple[Path, np.ndarray]], class_names: Sequence[str]) -> None:
    """Write CSV: the image below `root`, the most probable class, and the probability of each; there whole or not."""
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)  # names as the file system has them
        writer.writerow(["image", "prediction", *class_names])
        for image, shares in rows:
            name = image.relative_to(root) if root.is_dir() else image.name
            writer.writerow([name, class_names[int(np.argmax(shares))], *(f"{share:.6f}" for share in shares)])
