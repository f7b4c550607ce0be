"""A teacher and a student that look at other numbers of neighboring slices."""

import json

import pytest
import torch
from test_neighbors import space
from tiny_runs import Tiny, copied, refused, run_student, run_teacher, taught, tiny

from datasets.slices.neighbors import middle
from utils.distillation.losses import TASK_LOSSES
from utils.distillation.objective import Distiller
from utils.distillation.terms import Task, read_terms
from utils.experiment.neighbors import seen_by, seen_by_both
from utils.training import checkpoints

__all__ = ["copied", "taught", "tiny"]  # fixtures
SHORT = ("--training.epochs=1", "--training.pictures=0", "--training.share_every=0")
HINT = {"name": "hint", "student": "bottleneck", "teacher": "bottleneck", "weight": 1.0}


@pytest.mark.parametrize(("channels", "teacher_channels"), [(1, 3), (3, 1), (3, 5)])
def test_each_network_takes_its_middle_channels(channels, teacher_channels):
    torch.manual_seed(0)
    student, teacher = Tiny(channels), Tiny(teacher_channels, width=6)
    terms, task = read_terms([HINT], num_classes=2), Task(TASK_LOSSES["dice_ce"]())
    objective = Distiller(student, task, teacher, terms, channels=channels, teacher_channels=teacher_channels).eval()
    image = torch.randn(2, 5, 32, 32)
    seen = {}
    for name, network in (("student", student), ("teacher", teacher)):
        network.register_forward_pre_hook(lambda _, given, name=name: seen.update({name: given[0]}))
    objective(image, torch.zeros(2, 1, 32, 32, dtype=torch.int64))
    assert torch.equal(seen["student"], middle(image, channels))
    assert torch.equal(seen["teacher"], middle(image, teacher_channels))


def test_the_training_data_have_the_larger_number():
    data = {"name": "slices", "root": "r"}
    two = {"neighbors": 2, "neighbor_mm": 3.0}
    assert seen_by_both(data, {}) == data
    assert seen_by_both(data, two) == data | two
    assert seen_by_both(data | {"neighbors": 1, "neighbor_mm": 3.0}, two) == data | two
    assert seen_by_both(data | {"neighbors": 2}, {"neighbors": 1}) == data | {"neighbors": 2}
    assert seen_by(data | two, {"modality": "CT"}) == data | {"neighbors": 0, "neighbor_mm": None}
    images = {"name": "image_folder", "root": "r"}
    assert seen_by(images, two) == seen_by_both(images, two) == images


def test_a_student_without_neighbors_learns_from_a_teacher_with_them(slice_store, tmp_path, capsys):
    store, teacher = space(slice_store, 1.5), slice_store.parent / "teacher"
    given = ("--data.neighbors=1", "--data.neighbor_mm=3")
    assert run_teacher(store, teacher, *SHORT, *given) == 0
    assert checkpoints.load(teacher / "best.ckpt")["preprocessing"]["in_channels"] == 3
    student = tmp_path / "student"
    flags = (*SHORT, "--mode=both", '--data.augment=["flip"]', f"--teacher_cache={tmp_path / 'cache'}")
    assert run_student(store, student, *flags) == 0
    output = capsys.readouterr().out
    assert "teacher: scored again on case_00003" in output
    assert "teacher cache: 0 of 16 answers were known" in output
    checkpoint = checkpoints.load(student / "best.ckpt")
    assert checkpoint["network"]["in_channels"] == checkpoint["preprocessing"]["in_channels"] == 1
    assert checkpoint["recipe"]["data"].get("neighbors", 0) == 0
    assert json.loads((student / "test.json").read_text())["cases"] == 2
    # a student with other neighbors asks the teacher about the same images
    capsys.readouterr()
    flags = (*flags, "--mode=train", "--data.neighbors=2", "--data.neighbor_mm=3")
    assert run_student(store, tmp_path / "wider", *flags) == 0
    assert "teacher cache: 16 of 16 answers were known" in capsys.readouterr().out
    assert checkpoints.load(tmp_path / "wider" / "best.ckpt")["network"]["in_channels"] == 5
    assert run_student(store, tmp_path / "other", *SHORT, "--data.neighbors=1") == 1
    assert "neighbor_mm 3.0, the student's data has None" in refused(capsys)


def test_a_teacher_that_does_not_know_of_neighbors_has_none(copied, tmp_path, capsys):
    file = copied.parent / "teacher" / "best.ckpt"
    checkpoint = torch.load(file, weights_only=True)
    for key in ("neighbors", "neighbor_mm", "in_channels"):
        del checkpoint["preprocessing"][key]
    torch.save(checkpoint, file)
    assert run_student(copied, tmp_path / "student", *SHORT, "--data.neighbors=1") == 0
    assert "teacher: scored again" in capsys.readouterr().out
