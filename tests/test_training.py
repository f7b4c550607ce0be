"""Runs on a tiny slice store: what they write, and what they refuse to overwrite."""

import dataclasses
import json
import os
import shutil
import socket
import sys

import pytest
import torch
import torch.distributed.run
from forked import forked
from lightning_fabric.cli import _main as fabric
from lightning_fabric.utilities.rank_zero import rank_zero_only
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_runs import TEACHER, Tiny, assert_same_weights, run_student, run_teacher, taught, tiny, weights

import train
from utils.training import checkpoints
from utils.training.term_watch import TermWatch

__all__ = ["taught", "tiny"]  # fixtures


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(taught, tmp_path):
    teacher = taught.parent / "teacher"
    for name, seed in (("same", 0), ("other", 1)):
        assert run_teacher(taught, tmp_path / name, f"--seed={seed}") == 0
    assert_same_weights(teacher, tmp_path / "same")
    assert not torch.equal(weights(teacher)["head.weight"], weights(tmp_path / "other")["head.weight"])


def test_loader_processes_change_nothing(taught, tmp_path):
    assert run_teacher(taught, tmp_path / "two", "--training.workers=2") == 0
    assert_same_weights(taught.parent / "teacher", tmp_path / "two")


def test_one_step_updates_batch_statistics_once_though_shares_are_measured(taught, tmp_path):
    assert run_student(taught, tmp_path / "run", "--training.epochs=1", "--training.share_every=1") == 0
    tracked = [value for name, value in weights(tmp_path / "run").items() if name.endswith("num_batches_tracked")]
    assert tracked
    assert all(int(value) == 4 for value in tracked)  # 18 slices, batches of 4: four steps


def test_the_loop_minimizes_weighted_terms(taught, tmp_path):
    term = '{{"name": "hint", "student": "encoder2", "teacher": "encoder2", "weight": {}}}'
    for weight in (1, 3):
        flags = ["--training.epochs=1", f"--distillation=[{term.format(weight)}]", "--training.optimizer=sgd"]
        assert run_student(taught, tmp_path / str(weight), *flags) == 0
    assert not torch.equal(weights(tmp_path / "1")["head.weight"], weights(tmp_path / "3")["head.weight"])


def test_the_students_checkpoint_holds_a_bare_student_and_rebuilds_it(taught):
    checkpoint = checkpoints.load(taught.parent / "student" / "best.ckpt")
    Tiny(num_classes=2).load_state_dict(checkpoint["weights"], strict=True)
    assert "training" not in checkpoint
    network = checkpoints.rebuild(checkpoint)
    assert not network.training
    assert checkpoint["preprocessing"]["window"] == [-200.0, 300.0]
    assert checkpoint["split"]["train"] == ["case_00000", "case_00001", "case_00002"]
    assert {row["case"] for row in checkpoint["scores"]["cases"]} == {"case_00003"}


def test_tensorboard_holds_terms_shares_scores_and_pictures(taught):
    events = EventAccumulator(str(taught.parent / "student"))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    for tag in ("train/loss", "train/learning_rate", "train/images_per_second", "val/dice", "val/dice/tumor"):
        assert tag in tags
    assert "val/published/dice/tumor" in tags
    for term in ("task", "unified_attention/encoder1"):
        assert {f"terms/{term}", f"weighted/{term}", f"gradient_share/{term}"} <= tags
    shares = [events.Scalars(tag)[0].value for tag in tags if tag.startswith("gradient_share/")]
    assert sum(shares) == pytest.approx(1.0, abs=1e-4)
    assert len(events.Images("val/image, target, prediction, difference")) == 2


def test_the_test_split_is_read_once(taught, tmp_path, monkeypatch, capsys):
    run = shutil.copytree(taught.parent / "student", tmp_path / "run")
    scores = json.loads((run / "test.json").read_text())
    assert {row["case"] for row in scores["rows"]} == {"case_00004", "case_00005"}
    assert scores["scores"]["cases_without/tumor"] == 1
    monkeypatch.setattr("utils.experiment.test.evaluate", lambda *_, **__: pytest.fail("the test split was read twice"))
    assert run_student(taught, run, "--mode=test") == 0
    assert "dice/tumor" in capsys.readouterr().out


def test_a_finished_run_is_not_overwritten(taught, tmp_path, capsys):
    run = shutil.copytree(taught.parent / "teacher", tmp_path / "run")
    before = (run / "last.ckpt").read_bytes()
    assert run_teacher(taught, run) == 1
    assert "already holds a run" in capsys.readouterr().err
    assert (run / "last.ckpt").read_bytes() == before


def test_a_resume_may_lengthen_a_run_but_not_change_it(taught, tmp_path, capsys):
    run = shutil.copytree(taught.parent / "teacher", tmp_path / "run")
    assert run_teacher(taught, run, "--resume", "--lr=0.5") == 1
    assert "training.learning_rate" in capsys.readouterr().err
    assert run_teacher(taught, run, "--resume", "--training.epochs=3") == 0
    assert checkpoints.load(run / "last.ckpt")["epoch"] == 3


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--teacher=nowhere/best.ckpt", "no such checkpoint"),
        ("--teacher=", "give its --teacher"),
        ("--metric.name=volume_dise", "did you mean 'volume_dice'"),
        ("--task_loss.name=dice_focl", "did you mean 'dice_focal'"),
        ("--data.root=nowhere", "SliceMaker"),
        ('--distillation=[{"name": "hint", "student": "logits", "teacher": "logits"}]', "has no weight"),
        ('--distillation=[{"name": "hint", "student": "encodr1", "teacher": "logits", "weight": 1}]', "did you mean"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_before_any_work(taught, tmp_path, capsys, flag, message):
    assert run_student(taught, tmp_path / "run", flag) == 1
    error = capsys.readouterr().err
    assert message in error
    assert len([line for line in error.splitlines() if line.startswith("error:")]) == 1
    assert not (tmp_path / "run").exists()


def test_a_broken_checkpoint_is_named(tmp_path):
    file = tmp_path / "best.ckpt"
    file.write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match=r"best\.ckpt: cannot be read"):
        checkpoints.load(file)


def test_a_term_that_is_not_finite_is_named_with_its_step():
    watch = TermWatch({"task": 1.0, "hint/encoder1": 2.0}, [])
    watch.add(torch.tensor([1.0, 2.0]), 4, 0, ["a"])
    watch.add(torch.tensor([1.0, float("nan")]), 4, 1, ["b"])
    watch.add(torch.tensor([float("nan"), float("nan")]), 4, 2, ["c"])
    with pytest.raises(ValueError, match=r"step 1: hint/encoder1 \(cases b\)"):
        watch.report()


def test_the_report_weighs_terms():
    watch = TermWatch({"task": 1.0, "hint/encoder1": 2.0}, [])
    watch.add(torch.tensor([1.0, 3.0]), 4, 0, ["a"])
    watch.add(torch.tensor([2.0, 5.0]), 4, 1, ["a"])
    report = watch.report()
    assert report["terms/hint/encoder1"] == 4.0  # (3 + 5) / 2
    assert report["weighted/hint/encoder1"] == 8.0
    assert report["train/loss"] == 9.5  # 1.5 + 8


def torchrun(*command: str) -> None:
    torch.distributed.run.main(["--standalone", "--nproc_per_node=2", *command])


def fabric_run(*command: str) -> None:
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    fabric(["run", "--devices=2", "--accelerator=cpu", f"--main-port={port}", *command], standalone_mode=False)


@pytest.mark.parametrize("launcher", [torchrun, fabric_run])
def test_two_processes_train_and_score_every_case(taught, tmp_path, monkeypatch, launcher):
    """The launcher forks this process, which has loaded torch already, instead of starting Python again."""
    read = torch.distributed.run.config_from_args

    def read_to_fork(arguments):
        config, _, (_, script, *flags) = read(arguments)
        return dataclasses.replace(config, start_method="fork"), run_script, (script, *flags)

    def run_script(script, *flags):
        monkeypatch.setattr(sys, "argv", [script, *flags])
        rank_zero_only.rank = int(os.environ["RANK"])  # lightning_fabric reads it when it is imported
        assert train.main() == 0

    flags = [
        *(*TEACHER, f"--data.root={taught}", f"--output={tmp_path / 'run'}", "--training.accelerator=cpu"),
        *("--mode=both", "--training.epochs=1", "--training.checkpoint_minutes=0"),
    ]
    monkeypatch.setattr("torch.distributed.run.config_from_args", read_to_fork)
    assert forked(lambda: launcher("train.py", *flags)) == 0
    scores = json.loads((tmp_path / "run/test.json").read_text())
    assert {row["case"] for row in scores["rows"]} == {"case_00004", "case_00005"}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_training_on_a_gpu(taught, tmp_path):
    assert run_teacher(taught, tmp_path / "run", "--training.accelerator=cuda", "--training.precision=auto") == 0
