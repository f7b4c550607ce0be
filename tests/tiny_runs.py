"""Trainings of a second on a tiny slice store: a teacher, and a student that learns from it."""

import shutil
from functools import cache
from pathlib import Path

import pytest
import torch
from conftest import slice_store as write_slice_store

from networks import NETWORKS
from networks.unet import UNet
from utils.experiment.run import main
from utils.recipe.command_line import parse
from utils.recipe.schema import ROOT, DistillationRecipe, Recipe
from utils.training import checkpoints

TEACHER = [
    f"--config={ROOT / 'configs/kits19_teacher.yaml'}",
    '--network={"name": "unet", "widths": [4, 4, 6, 6, 8]}',
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
    '--network={"name": "dropping"}',
    "--training.share_every=3",
]


class Dropping(UNet):
    """A small U-Net with dropout."""

    def __init__(self, in_channels: int = 1, num_classes: int = 2) -> None:
        super().__init__(in_channels, num_classes, widths=(4, 4, 4, 6, 6))
        self.bottleneck = torch.nn.Sequential(self.bottleneck, torch.nn.Dropout2d(0.2))


@cache
def teach(home: Path) -> Path:
    """A slice store; beside it a trained teacher, in `teacher/`, and its trained and tested student, in `student/`."""
    store = write_slice_store.__wrapped__(home)
    assert run_teacher(store, store.parent / "teacher") == 0
    assert run_student(store, store.parent / "student", "--mode=both") == 0
    return store


@pytest.fixture
def taught(tmp_path_factory, monkeypatch) -> Path:
    """The store of `teach`, made once. Only to be read: a test that changes something takes `copied`."""
    monkeypatch.setitem(NETWORKS, "dropping", Dropping)
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
