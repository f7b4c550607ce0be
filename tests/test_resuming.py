"""A run that is killed anywhere and resumed equals the one that was not."""

import csv
import os
import signal
from pathlib import Path

import pytest
import torch
import yaml
from conftest import slice_store as make_slice_store
from forked import forked
from run_folders import history
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_runs import assert_same_weights, run_student, taught, tiny

from datasets.slices.dataset import SliceDataset
from utils import experiment
from utils.experiment.run import main
from utils.recipe.command_line import parse
from utils.recipe.schema import ROOT, DistillationRecipe, Recipe
from utils.training import checkpoints, loop
from utils.training.tracking import Tracker

FLAGS = [
    f"--config={ROOT / 'configs/kits19_teacher.yaml'}",
    '--network={"name": "tiny", "dropout": 0.2}',
    '--data.augment=["flip"]',
    "--data.crop=32",
    "--training.batch_size=6",  # 18 slices: three steps an epoch
    "--training.epochs=2",
    "--training.precision=32-true",
    "--training.log_every=2",
    "--training.checkpoint_minutes=0",
    "--training.pictures=0",
]
TERM = '--distillation=[{"name": "hint", "student": "encoder2", "teacher": "encoder2", "weight": 0.5}]'

__all__ = ["taught", "tiny"]  # fixtures


class Killed(BaseException):
    """What no `except` of the program catches: a kill within this process."""


def run(store, output, *flags) -> int:
    return main(parse(Recipe, "test", [*FLAGS, f"--data.root={store}", f"--output={output}", *flags]))


def distil(store, output, *flags) -> int:
    given = [*FLAGS, TERM, f"--data.root={store}", f"--output={output}", *flags]
    return main(parse(DistillationRecipe, "test", given))


def state(output) -> dict[str, torch.Tensor]:
    return {
        f"{name}/{key}": value
        for name in ("last", "best")
        for key, value in checkpoints.load(Path(output) / f"{name}.ckpt")["weights"].items()
    }


def scalars(output) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(output))
    events.Reload()
    tags = [tag for tag in events.Tags()["scalars"] if tag != "train/images_per_second"]
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}


def assert_equal(one, other):
    first, second = state(one), state(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert history(one) == history(other)
    assert scalars(one) == scalars(other)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny):
    """A store and a run on it that nothing interrupted."""
    home = tmp_path_factory.mktemp("whole")
    store = make_slice_store.__wrapped__(home)
    assert run(store, home / "run") == 0
    return store, home / "run"


def kill_at(monkeypatch, holder, name: str, call: int):
    """The `call`-th call of a function ends the run as a kill would: nothing after it happens."""
    real, calls = getattr(holder, name), [0]

    def counted(*arguments, **named):
        calls[0] += 1
        if calls[0] == call:
            raise Killed
        return real(*arguments, **named)

    monkeypatch.setattr(holder, name, counted)


@pytest.mark.parametrize(
    ("holder", "name", "call"),
    [
        (loop, "train_step", 3),  # the last step of the first epoch
        (loop, "train_step", 5),  # between steps of the second
        (experiment.prepare, "evaluate", 1),  # inside the first validation, after a save at the last step
        (Tracker, "epoch", 1),  # best.ckpt is there, its line and last.ckpt are not
        (torch, "save", 3),  # a checkpoint half written
        (torch, "save", 6),
    ],
)
def test_killed_anywhere_and_resumed_equals_uninterrupted(whole, tmp_path, monkeypatch, holder, name, call):
    store, uninterrupted = whole
    with monkeypatch.context() as patch:
        kill_at(patch, holder, name, call)
        with pytest.raises(Killed):
            run(store, tmp_path / "run")
    assert run(store, tmp_path / "run", "--resume") == 0
    assert_equal(uninterrupted, tmp_path / "run")
    assert not list((tmp_path / "run").glob(".*"))


def signal_at(monkeypatch, batch: int, number: int):
    """Send this process a signal before it gathers a batch of the second epoch."""
    gather, count = SliceDataset.gather, [0]

    def gather_and_signal(self, indices):
        if self.split == "train" and self.epoch == 1:
            count[0] += 1
            if count[0] == batch:
                os.kill(os.getpid(), number)
        return gather(self, indices)

    monkeypatch.setattr(SliceDataset, "gather", gather_and_signal)


def test_killed_in_the_middle_of_an_epoch_and_resumed_equals_uninterrupted(taught, tmp_path, monkeypatch):
    def killed():
        signal_at(monkeypatch, 3, signal.SIGKILL)  # of four steps
        run_student(taught, tmp_path / "killed")

    assert forked(killed) == -signal.SIGKILL
    assert checkpoints.load(tmp_path / "killed" / "last.ckpt")["epoch"] == 1
    assert run_student(taught, tmp_path / "killed", "--resume") == 0
    assert_same_weights(taught.parent / "student", tmp_path / "killed")
    assert history(taught.parent / "student") == history(tmp_path / "killed")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_within_the_epoch_and_resume_is_exact(taught, tmp_path, monkeypatch, capsys, number):
    with monkeypatch.context() as patch:
        signal_at(patch, 2, number)
        assert run_student(taught, tmp_path / "stopped") == 128 + number
    assert "continue with --resume" in capsys.readouterr().out
    training = checkpoints.load(tmp_path / "stopped" / "last.ckpt")["training"]
    assert (training["progress"]["epoch"], training["progress"]["position"]) == (1, 2)
    assert run_student(taught, tmp_path / "stopped", "--resume") == 0
    assert_same_weights(taught.parent / "student", tmp_path / "stopped")


def test_a_signal_between_reports_changes_no_mean(whole, tmp_path, monkeypatch):
    store, uninterrupted = whole
    with monkeypatch.context() as patch:
        asked = [0]

        def signal_once(*_):
            asked[0] += 1
            return 15 if asked[0] == 4 else None  # after step 3, which is not logged

        patch.setattr("utils.training.loop._any_signal", signal_once)
        assert run(store, tmp_path / "run") == 128 + 15
    assert checkpoints.load(tmp_path / "run/last.ckpt")["training"]["progress"]["window"]
    assert run(store, tmp_path / "run", "--resume") == 0
    assert_equal(uninterrupted, tmp_path / "run")


def test_patience_counts_on_after_a_resume(slice_store, tmp_path, monkeypatch):
    flags = ("--training.epochs=6", "--training.patience=2", "--training.learning_rate=1e-9")
    assert run(slice_store, tmp_path / "whole", *flags) == 0
    with monkeypatch.context() as patch:
        kill_at(patch, experiment.prepare, "evaluate", 2)
        with pytest.raises(Killed):
            run(slice_store, tmp_path / "cut", *flags)
    assert run(slice_store, tmp_path / "cut", *flags, "--resume") == 0
    assert_equal(tmp_path / "whole", tmp_path / "cut")
    epochs = [row["epoch"] for row in csv.DictReader((tmp_path / "cut/history.csv").open())]
    assert len(epochs) < 6


def test_a_full_disk_loses_nothing_and_names_the_file(whole, tmp_path, monkeypatch, capsys):
    store, uninterrupted = whole
    real, calls = torch.save, [0]

    def save(content, file):
        calls[0] += 1
        if calls[0] == 4:
            file.write(b"half")
            raise RuntimeError("[enforce fail at inline_container.cc:672]") from OSError(28, "No space left on device")
        real(content, file)

    def save_as_torch(content, file):
        try:
            save(content, file)
        except RuntimeError as error:  # torch has the system's error as context
            error.__context__ = error.__cause__
            raise

    with monkeypatch.context() as patch:
        patch.setattr("torch.save", save_as_torch)
        assert run(store, tmp_path / "run") == 1
    message = capsys.readouterr().err.strip()
    assert message.count("\n") == 0
    assert "ckpt: No space left on device: free some disk space" in message
    assert not list((tmp_path / "run").glob(".*"))
    assert run(store, tmp_path / "run", "--resume") == 0
    assert_equal(uninterrupted, tmp_path / "run")


def test_events_on_a_full_disk_name_their_file(tmp_path):
    tracker = Tracker(tmp_path, active=True)
    tracker._file = None

    class Full:
        def write(self, _):
            raise OSError(28, "No space left on device")

    tracker._records, tracker._file = Full(), object()
    with pytest.raises(OSError, match="No space left") as caught:
        tracker.scalars({"a": 1.0}, 0)
    assert "events.out.tfevents" in caught.value.filename


def test_what_was_stopped_before_its_first_checkpoint_starts_over(whole, tmp_path, monkeypatch):
    store, uninterrupted = whole
    with monkeypatch.context() as patch:
        kill_at(patch, torch, "save", 1)
        with pytest.raises(Killed):
            run(store, tmp_path / "run")
    assert not (tmp_path / "run/last.ckpt").exists()
    assert run(store, tmp_path / "run", "--resume") == 0
    assert_equal(uninterrupted, tmp_path / "run")


def test_a_share_is_measured_once_and_kept(whole, tmp_path, monkeypatch, capsys):
    store, teacher = whole
    flags = ("--distillation_share=2.0", f"--teacher={teacher}")
    assert distil(store, tmp_path / "whole", *flags) == 0
    checkpoint = checkpoints.load(tmp_path / "whole/last.ckpt")
    factor = checkpoint["balance"]["factor"]
    assert checkpoint["balance"]["share"] == 2.0
    said = yaml.safe_load((tmp_path / "whole/config.yaml").read_text())
    assert said["distillation_share"] is None
    assert said["distillation"][0]["weight"] == 0.5 * factor == checkpoint["recipe"]["distillation"][0]["weight"]

    with monkeypatch.context() as patch:
        kill_at(patch, experiment.prepare, "evaluate", 3)  # the first scores the teacher
        with pytest.raises(Killed):
            distil(store, tmp_path / "cut", *flags)
    monkeypatch.setattr("utils.experiment.teacher.balance", lambda *_: pytest.fail("the share was measured twice"))
    assert distil(store, tmp_path / "cut", *flags, "--resume") == 0
    assert_equal(tmp_path / "whole", tmp_path / "cut")
    config = f"--config={tmp_path / 'whole/config.yaml'}"
    again = parse(DistillationRecipe, "test", [config, f"--output={tmp_path / 'again'}"])
    assert main(again) == 0
    assert_equal(tmp_path / "whole", tmp_path / "again")
    longer = parse(DistillationRecipe, "test", [config, "--resume=true", "--training.epochs=3"])
    assert main(longer) == 0
    assert f"weights of the terms times {factor:.4g}" in capsys.readouterr().out
