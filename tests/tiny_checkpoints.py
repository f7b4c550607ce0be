"""Checkpoints of small networks, volumes for them, and predict.py called on both."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from raw_cases import hounsfield
from raw_cases import save as save_volume
from torch import Tensor, nn

from networks import NETWORKS
from scripts.predict import main
from utils.training import checkpoints

KIDNEY, TUMOR = 60.0, 180.0  # HU above which `Thresholds` says so
CT = {"modality": "CT", "task": "all", "window": [-200.0, 300.0], "pad_value": -1.0, "crop": 32, "multiple": 32}
MR = {"modality": "MR", "task": "all", "window": None, "pad_value": 0.0, "crop": 32, "multiple": 32}
NAMES = ["kidney", "tumor"]


class Thresholds(nn.Module):
    """Class 1 from one value of the normalized image on, class 2 from a higher one."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, num_classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.convolution(image)


@pytest.fixture
def thresholds(tmp_path, monkeypatch) -> Path:
    """A checkpoint that labels voxels from 60 HU on 1 and from 180 HU on 2."""
    monkeypatch.setitem(NETWORKS, "thresholds", Thresholds)
    lower, upper = ((value - 50.0) / 250.0 - 1e-4 for value in (KIDNEY, TUMOR))
    # 0, x - lower, 2x - lower - upper: the second wins from `lower` on, the third from `upper` on
    weights = {
        "convolution.weight": torch.tensor([0.0, 1.0, 2.0]).reshape(3, 1, 1, 1),
        "convolution.bias": torch.tensor([0.0, -lower, -lower - upper]),
    }
    return save(tmp_path / "thresholds.ckpt", {"name": "thresholds", "num_classes": 3}, weights=weights)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Three CTs: a, b and c."""
    for number, name in enumerate("abc"):
        save_volume(tmp_path / "in" / f"{name}.nii.gz", hounsfield(number) // 4)
    return tmp_path / "in"


def scan(seed: int) -> np.ndarray:
    """HU of (slices, H, W) or of any order: smooth enough for a small network to see something."""
    coarse = np.random.default_rng(seed).normal(50, 150, (5, 6, 7))
    return np.kron(coarse, np.ones((2, 8, 8))).astype(np.int16)[:9, :44, :50]


def labels_of(image: np.ndarray) -> np.ndarray:
    """What the checkpoint `thresholds` makes of an image."""
    return (image >= KIDNEY).astype(np.uint8) + (image >= TUMOR)


def unet(path: Path, seed: int = 0, preprocessing: dict | None = None, **training) -> Path:
    """A checkpoint of a small UNet with random weights that uses all of its classes."""
    section = {
        "name": "unet",
        "in_channels": (preprocessing or CT).get("in_channels", 1),
        "num_classes": 3,
        "widths": [4, 4, 8, 8, 8],
    }
    torch.manual_seed(seed)
    network = NETWORKS["unet"](**{key: value for key, value in section.items() if key != "name"})
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return save(path, section, network.state_dict(), preprocessing, **training)


def save(path: Path, network: dict, weights: dict, preprocessing: dict | None = None, **training) -> Path:
    preprocessing = {**(preprocessing or CT)}
    preprocessing = {"class_names": NAMES, "labels": {"1": "kidney", "2": "tumor"}, **preprocessing}
    checkpoint = {
        "network": network,
        "weights": weights,
        "preprocessing": preprocessing,
        "split": {"train": [], "val": [], "test": [], "sha256": "0" * 64},
        "scores": {"scores": {}, "cases": []},
        "recipe": {"training": {"precision": "32-true", "channels_last": True, **training}},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoints.save(checkpoint, path)
    return path


def predict(checkpoint: Path, source: Path, out: Path, *flags: str) -> int:
    return main(["--checkpoint", str(checkpoint), "--input", str(source), "--output", str(out), *map(str, flags)])


def voxels(path: Path) -> np.ndarray:
    return np.asarray(nibabel.load(path).dataobj)


def record(out: Path) -> dict:
    return json.loads((out / "predictions.json").read_text())["cases"]
