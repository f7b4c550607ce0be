"""Several processes learn what one learns, and a resumed run of them what an uninterrupted one does."""

import os

import pytest
import torch
from forked import forked_group
from lightning_fabric.utilities.rank_zero import rank_zero_only
from tiny_runs import Tiny, assert_same_weights, run_student, taught, tiny, weights
from torch import nn

from networks import NETWORKS

__all__ = ["taught", "tiny"]  # fixtures

# Losses that are means over images, as soft Dice is not, and steps in proportion to the gradient.
TERMS = (
    '--distillation=[{"name": "soft_target", "student": "logits", "teacher": "logits", "weight": 1}, '
    '{"name": "hint", "student": "encoder2", "teacher": "encoder2", "weight": 2}]'
)
FLAGS = ["--training.optimizer=sgd", "--training.learning_rate=0.01", "--training.schedule=constant"]
FLAGS += ["--task_loss={name: cross_entropy}", TERMS]


class ImageByImage(Tiny):
    """Tiny without statistics over a batch: its loss is the mean over images, wherever they are."""

    def __init__(self, **arguments) -> None:
        super().__init__(**arguments)
        for name, module in list(self.named_modules()):
            if isinstance(module, nn.BatchNorm2d):
                self.set_submodule(name, nn.GroupNorm(1, module.num_features))


def distil(processes, store, output, *flags):
    def work():
        rank_zero_only.rank = int(os.environ["RANK"])  # lightning_fabric reads it when it is imported
        assert run_student(store, output, "--training.accelerator=cpu", *FLAGS, *flags) == 0

    assert forked_group(processes, work) == [0] * processes


@pytest.mark.parametrize(
    ("both", "flags"),
    [(["--training.clip_norm=0.1"], []), ([], ["--training.accumulate=2"])],
    ids=["clipped", "in parts"],
)
def test_two_processes_learn_what_one_learns(taught, tmp_path, monkeypatch, both, flags):
    monkeypatch.setitem(NETWORKS, "tiny_by_image", ImageByImage)
    own = ['--network={"name": "tiny_by_image"}', *both]
    distil(1, taught, tmp_path / "one", *own)
    distil(2, taught, tmp_path / "two", *own, *flags)
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-5, atol=1e-6)


def test_two_processes_resume_to_the_same_weights(taught, tmp_path):
    """With dropout and batch statistics, which are those of each process."""
    distil(2, taught, tmp_path / "whole")
    distil(2, taught, tmp_path / "parts", "--training.epochs=1")
    distil(2, taught, tmp_path / "parts", "--resume")
    assert_same_weights(tmp_path / "whole", tmp_path / "parts")
