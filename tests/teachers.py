"""Checkpoints that teach a slice store, and scripts/TeachWith.py called on them."""

import json
from pathlib import Path

import torch

from datasets.slices.dataset import SliceDataset
from networks import NETWORKS
from scripts.TeachWith import main
from tests.conftest import SHA256, SPLIT
from utils.training import checkpoints

TEACHER = {"name": "unet", "num_classes": 3, "widths": [4, 4, 8, 8, 8]}


def checkpoint_of(store: Path, path: Path, seed: int = 0, split: dict | None = None, **data) -> Path:
    """A checkpoint of a small network with random weights that uses all classes of the store."""
    dataset = SliceDataset(store, "val", task="all", crop=32, **data)
    section = {**TEACHER, "in_channels": dataset.in_channels}
    torch.manual_seed(seed)
    network = NETWORKS["unet"](**{key: value for key, value in section.items() if key != "name"})
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    checkpoint = {
        "network": section,
        "weights": network.state_dict(),
        "preprocessing": dataset.preprocessing,
        "split": {**(split or SPLIT), "sha256": SHA256},
        "scores": {"scores": {}, "cases": []},
        "recipe": {
            "data": {"name": "slices", "root": str(store), "task": "all", "crop": 32, **data},
            "training": {"precision": "32-true", "accelerator": "cpu", "batch_size": 4},
        },
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoints.save(checkpoint, path)
    return path


def teach(store: Path, maps: Path, *flags: object) -> int:
    return main(["--data", str(store), "--output", str(maps), *map(str, flags)])


def made_by(maps: Path) -> list[dict]:
    """The teachers that maps.json names."""
    return json.loads((maps / "maps.json").read_text())["made_by"]["teachers"]
