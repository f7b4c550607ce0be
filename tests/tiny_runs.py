"""Trainings of a second on a tiny slice store: a teacher, and a student that learns from it."""

import shutil
from functools import cache
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from conftest import slice_store as write_slice_store
from torch import nn

from networks import NETWORKS
from networks.blocks import conv_norm
from utils.experiment.run import main
from utils.recipe.command_line import parse
from utils.recipe.schema import ROOT, DistillationRecipe, Recipe
from utils.training import checkpoints

ENCODER = ("encoder1", "encoder2", "encoder3", "encoder4", "bottleneck")
DECODER = ("decoder4", "decoder3", "decoder2", "decoder1")
TEACHER = [
    f"--config={ROOT / 'configs/kits19_teacher.yaml'}",
    '--network={"name": "tiny", "width": 4}',
    '--data.augment=["flip", "rot90", "affine", "intensity"]',
    "--data.crop=32",
    "--training.batch_size=4",  # 18 slices: four steps an epoch
    "--training.epochs=2",
    "--training.precision=32-true",
    "--training.log_every=2",
    "--training.workers=0",
]
# Dropout, a learned and a random projector: everything that draws random numbers or learns beside the network.
STUDENT = [
    *TEACHER,
    f"--config={ROOT / 'configs/methods/hlfd_as_published.yaml'}",
    '--network={"name": "tiny", "dropout": 0.2}',
    "--training.share_every=3",
]


class Tiny(nn.Module):
    """A layer for each tap of a U-Net, with dropout: a run of it is as long as what is around the network."""

    taps: ClassVar[dict[str, str]] = {name: name for name in (*ENCODER, *DECODER)}

    def __init__(self, in_channels: int = 1, num_classes: int = 2, width: int = 4, dropout: float = 0.0) -> None:
        super().__init__()
        self.encoder1 = conv_norm(in_channels, width)
        for name in ENCODER[1:]:
            self.add_module(name, nn.Sequential(nn.AvgPool2d(2), conv_norm(width, width, 1)))
        self.dropout = nn.Dropout2d(dropout)
        for name in DECODER:
            self.add_module(name, nn.Sequential(nn.Upsample(scale_factor=2.0), nn.Conv2d(width, width, 1)))
        self.head = nn.Conv2d(width, num_classes, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        skips = []
        for name in ENCODER:
            image = self.get_submodule(name)(image)
            skips.append(image)
        image = self.dropout(skips.pop())
        for name in DECODER:
            image = self.get_submodule(name)(image) + skips.pop()
        return self.head(image)


@pytest.fixture(scope="module", autouse=True)
def tiny():
    """Recipes may name `Tiny`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(NETWORKS, "tiny", Tiny)
        yield


@cache
def teach(home: Path) -> Path:
    """A slice store; beside it a trained teacher, in `teacher/`, and its trained and tested student, in `student/`."""
    store = write_slice_store.__wrapped__(home)
    assert run_teacher(store, store.parent / "teacher") == 0
    assert run_student(store, store.parent / "student", "--mode=both") == 0
    return store


@pytest.fixture
def taught(tmp_path_factory, tiny) -> Path:
    """The store of `teach`, made once. Only to be read: a test that changes something takes `copied`."""
    return teach(tmp_path_factory.getbasetemp() / "taught")


@pytest.fixture
def copied(taught, tmp_path) -> Path:
    """The store and teacher of `taught`, to be changed."""
    shutil.copytree(taught.parent / "teacher", tmp_path / "copied" / "teacher")
    return shutil.copytree(taught, tmp_path / "copied" / taught.name)


def run_teacher(store, output, *flags) -> int:
    return main(parse(Recipe, "test", [*TEACHER, f"--data.root={store}", f"--output={output}", *flags]))


def run_student(store, output, *flags) -> int:
    teacher = Path(store).parent / "teacher" / "best.ckpt"
    given = [*STUDENT, f"--data.root={store}", f"--output={output}", f"--teacher={teacher}", *flags]
    return main(parse(DistillationRecipe, "test", given))


def weights(output) -> dict[str, torch.Tensor]:
    return checkpoints.load(Path(output) / "last.ckpt")["weights"]


def assert_same_weights(one, other):
    one, other = weights(one), weights(other)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def refused(capsys) -> str:
    """The one line that was printed as an error."""
    error = capsys.readouterr().err.strip()
    assert error.startswith("error:")
    assert "\n" not in error
    return error
