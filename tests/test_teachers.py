"""A run checks its teacher before any work: its patients, its images, its weights, and the file on a resume."""

import json

import pytest
from tiny_runs import copied, refused, run_student, taught, tiny

from datasets.splits import split_sha256
from utils.training import checkpoints

__all__ = ["copied", "taught", "tiny"]  # fixtures


def score_otherwise(file) -> None:
    """Change the scores that a checkpoint holds, and not its weights."""
    content = checkpoints.load(file)
    for row in content["scores"]["cases"]:
        row["dice"] = abs(row["dice"] - 0.5)
    checkpoints.save(content, file)


def test_a_teacher_that_saw_the_students_patients_is_refused(copied, tmp_path, capsys):
    split = json.loads((copied / "split.json").read_text())
    split["train"], split["test"] = ["case_00004", "case_00005"], ["case_00000", "case_00001", "case_00002"]
    (copied / "split.json").write_text(json.dumps(split))
    manifest = json.loads((copied / "dataset.json").read_text())
    (copied / "dataset.json").write_text(json.dumps(manifest | {"split_sha256": split_sha256(split)}))
    index = (copied / "index.csv").read_text().splitlines()
    swapped = [line.replace(",train,", ",X,").replace(",test,", ",train,").replace(",X,", ",test,") for line in index]
    (copied / "index.csv").write_text("\n".join(swapped) + "\n")
    assert run_student(copied, tmp_path / "run") == 1
    message = capsys.readouterr().err
    assert "case_00000" in message
    assert "--allow_leak" in message
    assert run_student(copied, tmp_path / "run", "--allow_leak", "--training.epochs=1") == 0


def test_a_teacher_whose_weights_are_not_those_it_was_scored_with_is_refused(copied, tmp_path, monkeypatch, capsys):
    score_otherwise(copied.parent / "teacher" / "best.ckpt")
    monkeypatch.setattr(
        "utils.experiment.teacher.balance", lambda *_: pytest.fail("measured before the teacher was checked")
    )
    for flags in ([], ["--distillation_share=1"]):
        assert run_student(copied, tmp_path / "run", *flags) == 1
        assert "its checkpoint says" in refused(capsys)


def test_a_teacher_of_other_images_is_refused(taught, tmp_path, capsys):
    assert run_student(taught, tmp_path / "run", "--data.window=[-100,100]") == 1
    assert "window" in refused(capsys)
    assert run_student(taught, tmp_path / "run", "--data.task=organ") == 1
    assert "task" in refused(capsys)
