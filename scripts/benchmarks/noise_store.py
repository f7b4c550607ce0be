"""Slice stores of noise to measure with: two different slices a volume, again and again as links to one file."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from datasets.slices.arguments import SPLITS
from datasets.slices.store import SliceRecord, write_catalog, write_slice
from datasets.splits import split_sha256

DIFFERENT = 2


def write_noise_store(root: Path, volumes: tuple[int, int, int], slices: int, side: int) -> None:
    """CT volumes (slices, side, side) for train, val and test; each slice has an organ with a tumor in it."""
    random = np.random.default_rng(0)
    label = np.zeros((side, side), np.uint8)
    label[side // 4 : side // 2, side // 4 : side // 2] = 1
    label[side // 3 : side // 2, side // 3 : side // 2] = 2
    split = {
        name: [f"{name}_{number:03d}" for number in range(count)] for name, count in zip(SPLITS, volumes, strict=True)
    }
    records = []
    for name, cases in split.items():
        for case in cases:
            (root / case).mkdir(parents=True)
            files = [f"{case}/{number:04d}.npz" for number in range(slices)]
            for file in files[:DIFFERENT]:
                write_slice(root / file, random.integers(-200, 300, (side, side), np.int16), label)
            for number, file in enumerate(files[DIFFERENT:]):
                os.link(root / files[number % DIFFERENT], root / file)
            place = {"case": case, "patient": case, "split": name, "root": root}
            known = {"labels": (1, 2), "mean": 50.0, "std": 150.0, "p005": -200.0, "p995": 300.0}
            records += [SliceRecord(**place, **known, slice=number, file=file) for number, file in enumerate(files)]
    manifest = {"dataset": "kits", "modality": "CT", "format": "npz", "task": "tumor", "tumor_labels": [2]}
    manifest |= {"labels": {"1": "kidney", "2": "tumor"}, "split_sha256": split_sha256(split)}
    write_catalog(root, records, {"seed": 0, "ratios": [0.5, 0.2, 0.3], **split}, manifest)
