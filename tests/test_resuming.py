"""A run that is killed anywhere and resumed equals the one that was not; a run stands on its data."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from datasets.files import alone_in
from datasets.splits import split_sha256
from tests.conftest import slice_store as make_slice_store
from tests.run_folders import dice_rows, write_run
from utils import experiment
from utils.experiment.run import main
from utils.recipe.command_line import parse
from utils.recipe.schema import ROOT, DistillationRecipe, Recipe
from utils.training import checkpoints, loop
from utils.training.tracking import Tracker

FLAGS = [
    f"--config={ROOT / 'configs/kits19_teacher.yaml'}",
    '--network={"name": "unet", "widths": [4, 4, 6, 6, 8]}',
    '--data.augment=["flip"]',
    "--data.crop=32",
    "--training.batch_size=6",  # 18 slices: three steps an epoch
    "--training.epochs=2",
    "--training.precision=32-true",
    "--training.log_every=2",
    "--training.checkpoint_minutes=0",
    "--training.pictures=0",
]
WIDER = '--network={"name": "unet", "widths": [4, 4, 6, 6, 16]}'
TERM = '--distillation=[{"name": "hint", "student": "encoder2", "teacher": "encoder2", "weight": 0.5}]'


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
    assert (one / "history.csv").read_text() == (other / "history.csv").read_text()
    assert scalars(one) == scalars(other)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
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
        (experiment.prepare, "evaluate", 2),
        (Tracker, "epoch", 1),  # best.ckpt is there, its line and last.ckpt are not
        (Tracker, "epoch", 2),
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


def refused(capsys) -> str:
    error = capsys.readouterr().err.strip()
    assert error.startswith("error:")
    assert "\n" not in error
    return error


def test_what_there_is_nothing_to_resume_from_is_refused(whole, tmp_path, capsys):
    store, _ = whole
    assert run(store, tmp_path / "none", "--resume") == 1
    assert "last.ckpt: not found, so there is no run to resume" in refused(capsys)
    assert not (tmp_path / "none").exists()
    folder = tmp_path / "only_best"
    folder.mkdir()
    (folder / "best.ckpt").write_bytes(b"weights")
    for flags in (["--resume"], [], ["--mode=both"]):
        assert run(store, folder, *flags) == 1
        assert "best.ckpt" in refused(capsys)
    assert [path.name for path in folder.iterdir()] == ["best.ckpt"]
    assert (folder / "best.ckpt").read_bytes() == b"weights"


def test_a_finished_run_is_resumed_as_it_is_or_not_at_all(whole, tmp_path, capsys):
    store, uninterrupted = whole
    folder = tmp_path / "run"
    shutil.copytree(uninterrupted, folder)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}

    def refuses(words: str, *flags: str) -> None:
        assert run(store, folder, "--resume", *flags) == 1
        assert words in refused(capsys)

    refuses("data.crop (32 then, 64 now), network.widths ([4, 4, 6, 6, 8] then,", "--data.crop=64", WIDER)
    refuses("2 epochs are done, more than training.epochs 1", "--training.epochs=1")
    (folder / "best.ckpt").rename(tmp_path / "best.ckpt")
    refuses("best.ckpt: is gone, which held the best weights so far", "--training.epochs=3")
    (tmp_path / "best.ckpt").rename(folder / "best.ckpt")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files


@pytest.mark.parametrize("content", [b"hello\n1,2\n", b"epoch,loss\nx,2\n", b"epoch,loss\n1,2,3\n", b"\xff\xfee\0"])
def test_a_damaged_history_is_named_before_any_work(tmp_path, content):
    (tmp_path / "history.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"history\.csv: does not hold a line an epoch"):
        Tracker(tmp_path, active=True)
    assert (tmp_path / "history.csv").read_bytes() == content
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("broken", ["scores", "rows", "cases", "data", "empty_mask_rule"])
def test_a_stored_result_that_is_not_whole_is_not_shown(tmp_path, broken):
    folder = write_run(tmp_path / "run", dice_rows({"a": 0.5, "b": 0.6}))
    stored = json.loads((folder / "test.json").read_text())
    for value in (None, [{"case": "a"}]):
        text = json.dumps(stored | {broken: value})
        (folder / "test.json").write_text(text)
        with pytest.raises(ValueError, match=r"test\.json: is not what --mode test writes"):
            experiment.test.test(Recipe(output=str(folder)))
        assert (folder / "test.json").read_text() == text


def test_what_was_stopped_before_its_first_checkpoint_starts_over(whole, tmp_path, monkeypatch):
    store, uninterrupted = whole
    with monkeypatch.context() as patch:
        kill_at(patch, torch, "save", 1)
        with pytest.raises(Killed):
            run(store, tmp_path / "run")
    assert not (tmp_path / "run/last.ckpt").exists()
    assert run(store, tmp_path / "run", "--resume") == 0
    assert_equal(uninterrupted, tmp_path / "run")


def test_two_trainings_do_not_share_a_folder(whole, tmp_path, capsys):
    store, _ = whole
    with alone_in(tmp_path / "run"):
        for flags in ([], ["--mode=test"]):
            assert run(store, tmp_path / "run", *flags) == 1
            assert "another command is writing to it" in refused(capsys)
    assert not (tmp_path / "run").exists()


def resplit(store):
    lines = (store / "index.csv").read_text().splitlines(keepends=True)
    moved = [line.replace(",test,", ",train,") if line.startswith("case_00004") else line for line in lines]
    (store / "index.csv").write_text("".join(moved))
    split = json.loads((store / "split.json").read_text())
    split["train"], split["test"] = [*split["train"], "case_00004"], ["case_00005"]
    (store / "split.json").write_text(json.dumps(split))
    manifest = json.loads((store / "dataset.json").read_text())
    (store / "dataset.json").write_text(json.dumps(manifest | {"split_sha256": split_sha256(split)}))
    manifest = json.loads((store / "dataset.json").read_text())
    (store / "dataset.json").write_text(json.dumps(manifest | {"split_sha256": split_sha256(split)}))


def relabel(store):
    with np.load(store / "case_00001/0002.npz") as content:
        image, label = content["image"], content["label"]
    np.savez(store / "case_00001/0002.npz", image=image, label=np.minimum(label, 1))


def reimage(store):
    with np.load(store / "case_00003/0002.npz") as content:
        image, label = content["image"], content["label"]
    np.savez(store / "case_00003/0002.npz", image=image + 1, label=label)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (resplit, "1 patients moved: case_00004 from test to train"),
        (relabel, "labels of 1 cases changed (case_00001)"),
        (reimage, "images of 1 cases changed (case_00003)"),
    ],
)
def test_a_run_is_not_resumed_on_other_data(slice_store, tmp_path, capsys, change, words):
    assert run(slice_store, tmp_path / "run", "--training.epochs=1") == 0
    before = (tmp_path / "run/last.ckpt").read_bytes()
    capsys.readouterr()
    change(slice_store)
    assert run(slice_store, tmp_path / "run", "--resume") == 1
    error = refused(capsys)
    assert words in error
    assert "start a new --output" in error
    assert (tmp_path / "run/last.ckpt").read_bytes() == before


def test_data_may_move_and_old_checkpoints_are_resumed_with_a_note(slice_store, tmp_path, capsys):
    assert run(slice_store, tmp_path / "run", "--training.epochs=1") == 0
    moved = slice_store.rename(tmp_path / "moved")
    assert run(moved, tmp_path / "run", "--resume") == 0
    file = tmp_path / "run/last.ckpt"
    content = checkpoints.load(file)
    for key in ("data", "teacher_sha256", "balance"):
        del content[key]
    for key in ("window", "logged"):
        del content["training"]["progress"][key]
    checkpoints.save(content, file)
    capsys.readouterr()
    moved.rename(slice_store)
    content["recipe"]["data"]["root"] = str(slice_store)
    checkpoints.save(content, file)
    relabel(slice_store)
    assert run(slice_store, tmp_path / "run", "--resume", "--training.epochs=3") == 0
    assert "whether images or labels have changed since the run began cannot be checked" in capsys.readouterr().out


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


def test_a_teacher_is_checked_before_the_warm_up(whole, tmp_path, monkeypatch, capsys):
    store, teacher = whole
    content = checkpoints.load(teacher)
    for row in content["scores"]["cases"]:
        row["dice"] = abs(row["dice"] - 0.5)
    checkpoints.save(content, tmp_path / "other.ckpt")
    monkeypatch.setattr("utils.experiment.teacher.balance", lambda *_: pytest.fail("measured too early"))
    assert distil(store, tmp_path / "run", "--distillation_share=1", f"--teacher={tmp_path / 'other.ckpt'}") == 1
    assert "its checkpoint says" in refused(capsys)


def test_a_teacher_of_other_content_or_another_file_is_refused(slice_store, tmp_path, capsys):
    assert run(slice_store, tmp_path / "teacher", "--training.epochs=1") == 0
    flags = (f"--teacher={tmp_path / 'teacher/best.ckpt'}", "--training.epochs=1")
    assert distil(slice_store, tmp_path / "run", *flags) == 0
    student = checkpoints.load(tmp_path / "run/best.ckpt")
    assert experiment.test._teacher(student) is not None
    content = checkpoints.load(tmp_path / "teacher/best.ckpt")
    (tmp_path / "teacher/best.ckpt").unlink()
    capsys.readouterr()
    assert distil(slice_store, tmp_path / "run", *flags, "--training.epochs=2", "--resume") == 1
    assert "teacher/best.ckpt is not there any more" in refused(capsys)
    assert experiment.test._teacher(student) is None
    checkpoints.save(content | {"epoch": 7}, tmp_path / "teacher/best.ckpt")
    assert distil(slice_store, tmp_path / "run", *flags, "--training.epochs=2", "--resume") == 1
    assert "teacher/best.ckpt has changed since the run began" in refused(capsys)
    (tmp_path / "teacher/best.ckpt").write_bytes(b"damaged")  # a picture must not cost the scores
    assert experiment.test._teacher(student) is None
    assert "its answers are left out of the pictures" in capsys.readouterr().out
    checkpoints.save(content | {"epoch": 7}, tmp_path / "teacher/best.ckpt")
    relabel(slice_store)
    assert distil(slice_store, tmp_path / "new", *flags) == 1
    assert "the teacher was trained on other data: labels of 1 cases changed (case_00001)" in refused(capsys)
