"""A captured step trains as one that is launched kernel by kernel, and the parts of a batch as the whole."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from captured_steps import Tape, interrupt_at_step, losses_of_50_steps
from lightning_fabric import Fabric
from tiny_runs import Tiny, assert_same_weights, refused, run_student, run_teacher, taught, tiny, weights
from torch import nn

from utils.distillation.losses import TASK_LOSSES
from utils.distillation.objective import Distiller
from utils.distillation.terms import Task
from utils.recipe.schema import Training
from utils.training import step
from utils.training.memory import no_memory
from utils.training.optimization import make_optimizer
from utils.training.step import CapturedStep, Step, obstacle

__all__ = ["taught", "tiny"]  # fixtures

CPU = Fabric(accelerator="cpu", devices=1)


@pytest.fixture
def captured(monkeypatch):
    """Steps are captured, on the CPU as well."""
    monkeypatch.setattr(Tape, "count", 0)
    monkeypatch.setattr(step, "obstacle", lambda *_: None)
    monkeypatch.setattr(step, "CapturedStep", partial(CapturedStep, new_graph=Tape))


def test_answers_that_are_known_take_the_place_of_the_teacher(captured, taught, tmp_path):
    flags = ['--data.augment=["flip", "rot90"]', "--training.accumulate=2", "--training.epochs=3"]
    assert run_student(taught, tmp_path / "asked", *flags) == 0
    assert run_student(taught, tmp_path / "known", *flags, f"--teacher_cache={tmp_path / 'cache'}") == 0
    one, other = weights(tmp_path / "asked"), weights(tmp_path / "known")
    for name in one:  # a teacher that is asked for some images of a batch may round otherwise
        torch.testing.assert_close(one[name], other[name], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_captured_run_ends_in_the_weights_of_one_that_is_not(request, taught, tmp_path, optimizer):
    flags = [f"--training.optimizer={optimizer}", "--training.clip_norm=0.5", "--training.warmup_epochs=1"]
    assert run_student(taught, tmp_path / "launched", *flags) == 0
    request.getfixturevalue("captured")
    assert run_student(taught, tmp_path / "captured", *flags) == 0
    assert Tape.count == 8
    assert_same_weights(tmp_path / "launched", tmp_path / "captured")


def test_fifty_captured_steps_have_the_losses_of_fifty_others():
    assert torch.equal(losses_of_50_steps(CPU), losses_of_50_steps(CPU, new_graph=Tape))


def test_a_captured_run_that_is_resumed_equals_one_that_is_not(captured, taught, tmp_path, monkeypatch):
    assert run_student(taught, tmp_path / "whole") == 0
    interrupt_at_step(6, monkeypatch)
    flags = ["--training.checkpoint_minutes=0", "--training.log_every=1"]
    assert run_student(taught, tmp_path / "stopped", *flags) == 130
    assert run_student(taught, tmp_path / "stopped", *flags, "--resume=true") == 0
    assert_same_weights(tmp_path / "whole", tmp_path / "stopped")


def test_a_step_that_cannot_be_captured_is_named_with_the_remedy(captured, taught, tmp_path, monkeypatch, capsys):
    def fail(self, work):
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing")

    monkeypatch.setattr(Tape, "capture", fail)
    assert run_student(taught, tmp_path / "run") == 1
    assert "(CUDA error: operation not permitted when stream is capturing): set training.graph to never" in refused(
        capsys
    )


def parts(count: int, width: int = 4, **settings) -> tuple[Step, nn.Module]:
    settings = Training(batch_size=4, accumulate=count, **settings)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 2, 1))  # no batch statistics
    objective = Distiller(network, Task(TASK_LOSSES["cross_entropy"]()))
    runner, optimizer = CPU.setup(objective, make_optimizer(objective.parameters(), settings))
    return Step(CPU, objective, runner, optimizer, settings), network


def test_parts_of_a_batch_make_the_step_of_the_whole():
    image, target = torch.randn(4, 1, 16, 16), torch.randint(0, 2, (4, 1, 16, 16))
    (whole, expected), (divided, network) = parts(1, optimizer="sgd"), parts(4, optimizer="sgd")
    seen = []
    network.register_forward_hook(lambda _module, inputs, _output: seen.append(len(inputs[0])))
    for _ in range(3):
        torch.testing.assert_close(divided(image, target), whole(image, target))
    assert seen == [1] * 12
    for value, other in zip(network.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(value, other)


def test_a_run_with_parts_is_another_run(taught, tmp_path):
    assert run_teacher(taught, tmp_path / "parts", "--training.accumulate=2", "--training.epochs=1") == 0
    assert run_teacher(taught, tmp_path / "whole", "--training.epochs=1") == 0
    one, other = weights(tmp_path / "parts"), weights(tmp_path / "whole")
    assert not all(torch.equal(one[name], other[name]) for name in one), "batch statistics are of a part"


@pytest.mark.parametrize(
    ("settings", "changes", "reason"),
    [
        (Training(), {}, None),
        (Training(graph="never"), {}, "training.graph is never"),
        (Training(precision="16-mixed"), {}, "16-mixed looks at the gradients"),
        (Training(), {"world_size": 2}, "processes exchange"),
        (Training(), {"device": torch.device("cpu")}, "only a GPU"),
    ],
)
def test_what_cannot_be_captured_is_named(settings, changes, reason):
    fabric = SimpleNamespace(**{"device": torch.device("cuda"), "world_size": 1} | changes)
    found = obstacle(fabric, settings)
    assert found is reason is None or reason in found


class Narrow(Tiny):
    """Runs out of memory with more than `most` images."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def forward(self, image):
        if len(image) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().forward(image)


@pytest.mark.parametrize(
    ("most", "accumulate", "message"),
    [
        (3, 1, "12 images of 32x32 do not fit at once, 3 do: set training.accumulate to 4 (now 1)"),
        (1, 2, "6 images of 32x32 do not fit at once, 1 do: set training.accumulate to 12 (now 2)"),
        (0, 1, "12 images of 32x32 do not fit at once, nor does one: lower the size of the images"),
    ],
)
def test_out_of_memory_names_the_part_that_fits(most, accumulate, message):
    objective = Distiller(Narrow(most), Task(TASK_LOSSES["dice_ce"]()))
    settings = Training(batch_size=12, accumulate=accumulate)
    image, target = torch.zeros(12, 1, 32, 32), torch.zeros(12, 1, 32, 32, dtype=torch.int64)
    assert message in str(no_memory(CPU, objective, image, target, settings))


def test_a_run_that_has_no_memory_says_which_part_fits(taught, tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(step.Step, "__call__", fail)
    assert run_teacher(taught, tmp_path / "run") == 1
    assert "4 images of 32x32 do not fit at once, 2 do: set training.accumulate to 2" in capsys.readouterr().err
