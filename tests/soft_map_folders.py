"""Folders of soft maps for tests."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from datasets.slices.soft_maps import MapsWriter

TEACHER = {"kind": "checkpoint", "path": "runs/big/best.ckpt", "sha256": "ab", "license": None}


def write_maps(
    folder: Path,
    store: Path,
    probabilities: Mapping[str, np.ndarray],
    classes: Sequence[str],
    patients: Mapping[str, Sequence[str]] | None = None,
) -> Path:
    """Write the maps (S, K, H, W) of some cases of a store, by one teacher that has seen these patients, or nobody."""
    seen = {"train": [], "val": []} if patients is None else patients
    made_by = {"command": "test", "version": "1", "teachers": [TEACHER]}
    writer = MapsWriter(folder, store, classes, made_by, "CC BY 4.0", {"0": seen}, probabilities)
    for case in writer.missing:
        writer.write(case, probabilities[case], [0])
    return folder
