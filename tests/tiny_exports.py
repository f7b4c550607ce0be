"""Small networks, runs of them on sliced CTs, and export.py called on them."""

import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from raw_cases import kits_case, label_of, make
from torch import Tensor, nn

from datasets.slices.dataset import SliceDataset
from networks import NETWORKS
from scripts.export import main
from utils.training import checkpoints


class Tiny(nn.Module):
    """A little of ENet: slopes, remembered maxima; and a grid of means, as PSPNet."""

    taps = {}  # noqa: RUF012

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Conv2d(1, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.PReLU())
        self.pool, self.unpool = nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)
        self.middle = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.PReLU())
        self.means = nn.AdaptiveAvgPool2d(3)
        self.head = nn.Conv2d(32, num_classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        feature, indices = self.pool(self.enter(image))
        feature = self.middle(feature)
        feature = feature + nn.functional.interpolate(self.means(feature), feature.shape[-2:], mode="bilinear")
        return self.head(self.unpool(feature, indices))


class OneSize(nn.Module):
    """Knows each place of a 64x64 image by itself."""

    taps = {}  # noqa: RUF012

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.randn(1, 8, 64, 64))
        self.enter, self.head = nn.Conv2d(1, 8, 1), nn.Conv2d(8, num_classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(torch.relu(self.enter(image) + self.place))


class Plain(nn.Module):
    """One convolution."""

    taps = {}  # noqa: RUF012

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.head = nn.Conv2d(1, num_classes, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(image)


class Labels(nn.Module):
    """Classifies a 32x32 image."""

    taps = {}  # noqa: RUF012

    def __init__(self, num_classes: int = 2) -> None:
        super().__init__()
        self.enter, self.head = nn.Conv2d(3, 8, 3, 2), nn.Linear(8, num_classes)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(torch.relu(self.enter(image)).mean((2, 3)))


def scan(seed: int) -> np.ndarray:
    """HU (slices, H, W) = (9, 44, 50): smooth enough for a small network to see something."""
    coarse = np.random.default_rng(seed).normal(50, 150, (5, 6, 7))
    return np.kron(coarse, np.ones((2, 8, 8))).astype(np.int16)[:9, :44, :50]


def run_of(network: str, folder: Path, store: Path, **around) -> None:
    """An untrained checkpoint as train_kd.py writes it. around: which neighbors it looks at, if any."""
    dataset = SliceDataset(store, "train", task="all", crop=64, augment=[], **around)
    section = {"num_classes": 3} | ({"in_channels": dataset.in_channels} if around else {})
    torch.manual_seed(0)
    module = NETWORKS[network](**section)
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 2)
            elif value.dtype == torch.float32:
                value.add_(0.1 * torch.randn_like(value))
    patients = {split: dataset.split_patients(split) for split in ("train", "val", "test")}
    folder.mkdir(parents=True)
    checkpoints.save(
        {
            "network": {"name": network, **section},
            "weights": module.state_dict(),
            "preprocessing": dataset.preprocessing,
            "split": patients | {"sha256": dataset.split_sha256},
            "scores": {"scores": {"dice": 0.25}, "cases": []},
            "epoch": 7,
            "recipe": {
                "data": {
                    "name": "slices",
                    "root": str(store),
                    "task": "all",
                    "crop": 64,
                    "augment": ["flip"],
                    **around,
                },
                "metric": {"name": "volume_dice"},
                "training": {"precision": "32-true", "channels_last": True, "batch_size": 4},
                "teacher": "/home/somebody/teacher.ckpt",
                "distillation": [{"name": "soft_target", "student": "logits", "teacher": "logits"}],
            },
        },
        folder / "best.ckpt",
    )


@pytest.fixture(scope="module")
def networks():
    with pytest.MonkeyPatch.context() as patch:
        for network in (Tiny, OneSize, Plain, Labels):
            patch.setitem(NETWORKS, network.__name__, network)
        yield


@cache
def make_store(folder: Path) -> Path:
    """Raw KiTS cases and their slices: train 0 and 1 or others, one in val, one in test."""
    for number in range(4):
        kits_case(folder / "raw", number, image=scan(number), label=label_of(scan(number).shape))
    assert make(folder / "raw", folder / "store", "--split", "0.5", "0.25", "0.25", "--task", "organ") == 0
    return folder


@cache
def make_plain(folder: Path, store: Path) -> Path:
    """The folder of a run that is exported fast."""
    run_of("Plain", folder / "run", store / "store")
    return folder / "run"


@cache
def make_exported(plain: Path) -> Path:
    """Weights and ONNX of the run `plain`."""
    out = plain.with_name("exported")
    assert export(plain, out, "--formats", "safetensors", "onnx") == 0
    return out


# Each is made once and only to be read, whichever file asks first.


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    return make_store(tmp_path_factory.getbasetemp() / "sliced")


@pytest.fixture(scope="module")
def plain(networks, store, tmp_path_factory) -> Path:
    return make_plain(tmp_path_factory.getbasetemp() / "plain", store)


@pytest.fixture(scope="module")
def exported(plain) -> Path:
    return make_exported(plain)


def export(folder: Path, out: Path, *flags: str) -> int:
    return main(["--checkpoint", str(folder), "--output", str(out), *map(str, flags)])


def copied(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))
