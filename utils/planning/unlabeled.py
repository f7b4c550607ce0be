"""The recipe of a student for scans that nobody labeled: sizes by the slices, what it sees by the teacher."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from datasets.slices.store import read_index, read_slice
from datasets.slices.transforms import next_multiple
from utils.planning.choices import batch_of, schedule_of
from utils.planning.recipes import METRIC, network_section
from utils.recipe.methods import method_file

METHOD = "dice_semimetric"  # reads logits alone, which is what maps hold
LARGEST_CROP = 384
SEEN = ("window", "neighbors", "neighbor_mm")  # what a student sees as its teacher does


def recipe_without_labels(
    store: Path, maps: Path, output: Path, teacher: Mapping[str, Any], network: str, seed: int, epochs: int | None
) -> dict[str, Any]:
    """What train_kd.py runs to learn from the soft maps of a store. teacher: the preprocessing of its checkpoint.

    Raises ValueError where the store cannot be read.
    """
    records = [record for record in read_index(store) if record.split == "train"]
    if not records:
        raise ValueError(f"{store}: has no train slices: give more scans")
    first = {record.case: record for record in reversed(records)}
    side = max(max(read_slice(record.path)[0].shape) for record in first.values())
    crop = min(next_multiple(side), teacher.get("crop") or LARGEST_CROP)
    batch = batch_of(crop, len(records)).value
    planned, rate = schedule_of(len(records), batch)
    terms = yaml.safe_load(method_file(METHOD).read_text(encoding="utf-8"))["distillation"]
    data = {"name": "slices", "root": str(store), "crop": crop, "augment": ["flip", "affine", "intensity"]}
    seen = {key: teacher[key] for key in SEEN if key in teacher}
    return {
        "output": str(output),
        "seed": seed,
        "data": data | seen,
        "network": network_section(network, crop),
        "task_loss": None,
        "metric": METRIC,
        "teacher": {"maps": str(maps)},
        "method": METHOD,
        "distillation": terms,
        "training": {"epochs": epochs or planned.value, "batch_size": batch, "learning_rate": rate.value},
    }
