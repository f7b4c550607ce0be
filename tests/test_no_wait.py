"""No network, method or metric asks the device for a value: on the meta device, where tensors have none, asking raises.

A loss that asks (`.item()`, a boolean index, a shape that depends on values) stops a GPU until all its work is done,
and cannot be part of a CUDA graph. Batches of data are held to the same in tests/test_pipeline.py and
tests/test_image_datasets.py.
"""

from contextlib import nullcontext
from inspect import signature
from types import SimpleNamespace

import pytest
import torch
from method_recipes import METHODS, STUDENT, TEACHER, WHOLE_IMAGES, features, pick, read, sides
from tiny_runs import Tiny

from networks import NETWORKS
from utils.distillation.losses import DISTILLATION_LOSSES, TASK_LOSSES
from utils.distillation.objective import Distiller
from utils.distillation.terms import Task, read_terms
from utils.evaluation.inference import evaluate
from utils.evaluation.metrics import METRICS

ONE_OF_EACH = list({network: name for name, network in NETWORKS.items() if name != "timm"}.values())


@pytest.fixture(autouse=True)
def without_autocast(monkeypatch):
    """The meta device has no autocast, which asks for no value."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())


def on_meta(side):
    return {tap: value.detach().to("meta").requires_grad_(value.is_floating_point()) for tap, value in side.items()}


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_a_network_asks_for_no_value(name):
    arguments = signature(NETWORKS[name]).parameters
    with torch.device("meta"):
        network = NETWORKS[name](**({"image_size": 64} if "image_size" in arguments else {}))
    channels = arguments["in_channels"].default
    network(torch.empty(2, channels, 64, 64, device="meta")).sum().backward()


@pytest.mark.parametrize("name", METRICS)
def test_counting_asks_for_no_value(name):
    shape = () if name == "classification" else (1, 64, 64)
    target = torch.zeros(4, *shape, dtype=torch.int64, device="meta")
    names = ["background", "kidney", "tumor"][1 if shape else 0 :]
    logits = torch.empty(4, 3, *shape[1:], device="meta")
    METRICS[name](names).update(logits, target, ["a", "a", "b", "c"] if shape else ["a", "b", "c", "d"])


class OnMeta:
    """Two cases of three slices, of which nothing is known but their shape."""

    cases, sizes = ("a", "b"), {"a": (60, 64), "b": (60, 64)}

    def case_indices(self):
        return {"a": [0, 1, 2], "b": [3, 4, 5]}

    def hold(self, device):
        return device.type == "meta"

    def batch(self, indices):
        image = torch.empty(len(indices), 1, 64, 64, device="meta")
        return {"image": image, "target": image.long(), "case": ["ab"[i // 3] for i in indices], "size": (60, 64)}


def test_validation_asks_for_no_value_before_its_last_batch():
    """Until the scores are computed, which is the first time that values are asked for."""
    seen = []

    class Counted(METRICS["volume_dice"]):
        def update(self, logits, target, case):
            super().update(logits, target, case)
            seen.append((tuple(logits.shape), list(case)))

    fabric = SimpleNamespace(device=torch.device("meta"), to_device=lambda value: value, autocast=nullcontext)
    fabric.global_rank, fabric.world_size, fabric.is_global_zero = 0, 1, True
    network = torch.nn.Conv2d(1, 3, 1, device="meta")
    with pytest.raises(NotImplementedError, match="meta"):
        evaluate(fabric, network, OnMeta(), [Counted(["kidney", "tumor"])], batch_size=4, channels_last=True)
    assert seen == [((4, 3, 60, 64), list("aaab")), ((2, 3, 60, 64), list("bb"))]


@pytest.mark.parametrize("name", METHODS)
def test_a_method_asks_for_no_value(name):
    if name in WHOLE_IMAGES:
        student, teacher, target = sides(name)
    else:
        student, teacher = features(STUDENT, 0, 3), features(TEACHER, 1, 3)
        target = torch.zeros(2, 1, 64, 64, dtype=torch.int64)
    student, target = on_meta(student), target.to("meta")
    teacher = on_meta(teacher) | {f"self/{tap}": value.detach() for tap, value in student.items()}
    task, terms = read(name)
    value = task.to("meta")(student["logits"], target)
    for loss, taps, other_taps, _ in terms:
        loss = loss.to("meta")
        value = value + loss(pick(student, taps), pick(teacher, other_taps), target)
    value.backward()


def test_a_loss_that_asks_is_found(monkeypatch):
    asked = DISTILLATION_LOSSES["soft_target"].forward

    def forward(self, student, teacher, target=None):
        return asked(self, student, teacher) * (1 if student.sum().item() else 2)

    monkeypatch.setattr(DISTILLATION_LOSSES["soft_target"], "forward", forward)
    with pytest.raises(RuntimeError, match="meta"):
        test_a_method_asks_for_no_value("hinton")


@pytest.mark.parametrize("partly_labeled", [False, True])
def test_an_objective_asks_for_no_value(partly_labeled):
    terms = read_terms(
        [
            {"name": "hint", "student": "encoder2", "teacher": "encoder2", "weight": 0.5, "projector": "random"},
            {"name": "region_affinity", "student": "encoder1", "teacher": "encoder1", "weight": 0.9},
        ],
        num_classes=2,
    )
    task = Task(TASK_LOSSES["dice_focal"]())
    objective = Distiller(Tiny(), task, Tiny(width=6), terms, partly_labeled=partly_labeled).to("meta")
    target = torch.zeros(3, 1, 64, 64, dtype=torch.int64, device="meta")
    sum(objective(torch.empty(3, 1, 64, 64, device="meta"), target).values()).backward()
