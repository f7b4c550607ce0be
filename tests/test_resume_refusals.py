"""A run is resumed on its own data, recipe and teacher, and from files that are whole; anything else is refused."""

import json
import shutil

import numpy as np
import pytest
from run_folders import dice_rows, write_run
from tiny_runs import copied, refused, run_student, run_teacher, taught, tiny

from datasets.files import alone_in
from datasets.splits import split_sha256
from utils import experiment
from utils.recipe.schema import Recipe
from utils.training import checkpoints
from utils.training.tracking import Tracker

WIDER = '--network={"name": "tiny", "width": 8}'

__all__ = ["copied", "taught", "tiny"]  # fixtures


def test_what_there_is_nothing_to_resume_from_is_refused(taught, tmp_path, capsys):
    assert run_teacher(taught, tmp_path / "none", "--resume") == 1
    assert "last.ckpt: not found, so there is no run to resume" in refused(capsys)
    assert not (tmp_path / "none").exists()
    folder = tmp_path / "only_best"
    folder.mkdir()
    (folder / "best.ckpt").write_bytes(b"weights")
    for flags in (["--resume"], [], ["--mode=both"]):
        assert run_teacher(taught, folder, *flags) == 1
        assert "best.ckpt" in refused(capsys)
    assert [path.name for path in folder.iterdir()] == ["best.ckpt"]
    assert (folder / "best.ckpt").read_bytes() == b"weights"


def test_a_finished_run_is_resumed_as_it_is_or_not_at_all(taught, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(taught.parent / "teacher", folder)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}

    def refuses(words: str, *flags: str) -> None:
        assert run_teacher(taught, folder, "--resume", *flags) == 1
        assert words in refused(capsys)

    refuses("data.crop (32 then, 64 now), network.width (4 then,", "--data.crop=64", WIDER)
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
        with pytest.raises(ValueError, match=r"test\.json: .*: move it away; then test the run again"):
            experiment.test.test(Recipe(output=str(folder)))
        assert (folder / "test.json").read_text() == text


def test_two_trainings_do_not_share_a_folder(taught, tmp_path, capsys):
    with alone_in(tmp_path / "run"):
        for flags in ([], ["--mode=test"]):
            assert run_teacher(taught, tmp_path / "run", *flags) == 1
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
def test_a_run_is_not_resumed_on_other_data(copied, capsys, change, words):
    run = copied.parent / "teacher"
    before = (run / "last.ckpt").read_bytes()
    capsys.readouterr()
    change(copied)
    assert run_teacher(copied, run, "--resume") == 1
    error = refused(capsys)
    assert words in error
    assert "start a new --output" in error
    assert (run / "last.ckpt").read_bytes() == before


def test_data_may_move_and_old_checkpoints_are_resumed_with_a_note(copied, capsys):
    run = copied.parent / "teacher"
    # trained where `taught` has its store; where decoded slices are kept does not shape the weights
    kept = ["--data.cache_mb=5", "--data.device_gb=1"]
    assert run_teacher(copied, run, "--resume", "--training.epochs=3", *kept) == 0
    content = checkpoints.load(run / "last.ckpt")
    for key in ("data", "teacher_sha256", "balance"):
        del content[key]
    for key in ("window", "logged"):
        del content["training"]["progress"][key]
    checkpoints.save(content, run / "last.ckpt")
    capsys.readouterr()
    relabel(copied)
    assert run_teacher(copied, run, "--resume", "--training.epochs=4") == 0
    assert "whether images or labels have changed since the run began cannot be checked" in capsys.readouterr().out


def test_a_teacher_of_other_content_or_another_file_is_refused(copied, tmp_path, capsys):
    teacher = copied.parent / "teacher" / "best.ckpt"
    assert run_student(copied, tmp_path / "run", "--training.epochs=1") == 0
    student = checkpoints.load(tmp_path / "run/best.ckpt")
    assert experiment.test._teacher(student) is not None
    content = checkpoints.load(teacher)
    teacher.unlink()
    capsys.readouterr()
    assert run_student(copied, tmp_path / "run", "--resume") == 1
    assert "teacher/best.ckpt is not there any more" in refused(capsys)
    assert experiment.test._teacher(student) is None
    checkpoints.save(content | {"epoch": 7}, teacher)
    assert run_student(copied, tmp_path / "run", "--resume") == 1
    assert "teacher/best.ckpt has changed since the run began" in refused(capsys)
    teacher.write_bytes(b"damaged")  # a picture must not cost the scores
    assert experiment.test._teacher(student) is None
    assert "its answers are left out of the pictures" in capsys.readouterr().out
    checkpoints.save(content | {"epoch": 7}, teacher)
    relabel(copied)
    assert run_student(copied, tmp_path / "new") == 1
    assert "the teacher was trained on other data: labels of 1 cases changed (case_00001)" in refused(capsys)
