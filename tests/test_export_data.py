"""export.py and the run's data: train calibrates, val is scored, test is left alone; and without any."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from tiny_exports import copied, export, exported, networks, plain, store

from datasets.splits import split_sha256
from scripts.evaluate import main as evaluate_main
from utils.runs.artifact import FILES

__all__ = ["exported", "networks", "plain", "store"]  # fixtures


def anew(store: Path, tmp_path: Path) -> Path:
    """The slices as they would be after another split: val and test have changed places."""
    folder = Path(shutil.copytree(store / "store", tmp_path / "store"))
    split, manifest = (json.loads((folder / f"{name}.json").read_text()) for name in ("split", "dataset"))
    split["val"], split["test"] = split["test"], split["val"]
    (folder / "split.json").write_text(json.dumps(split))
    (folder / "dataset.json").write_text(json.dumps(manifest | {"split_sha256": split_sha256(split)}))
    index = (folder / "index.csv").read_text()
    swapped = index.replace(",val,", ",X,").replace(",test,", ",val,").replace(",X,", ",test,")
    (folder / "index.csv").write_text(swapped)
    return folder


def test_without_the_data_the_rest_is_exported(plain, tmp_path, capsys, monkeypatch):
    in_this_process = "utils.exporting.assembly.FreshProcess"  # a new one takes seconds
    monkeypatch.setattr(in_this_process, lambda path, _: torch.export.load(path).module())
    assert export(plain, tmp_path / "out", "--data", tmp_path / "gone") == 0
    error = capsys.readouterr().err
    assert "scores not measured, the val split is not there" in error and "no int8" in error
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(FILES) - {"student_int8.onnx"}
    assert "were not measured" in (tmp_path / "out/README.md").read_text()


def test_int8_asked_for_by_name_needs_the_data(plain, tmp_path, capsys):
    assert export(plain, tmp_path / "out", "--data", tmp_path / "gone", "--formats", "int8") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "train split is not there" in error
    assert list(tmp_path.iterdir()) == []


def test_data_split_anew_is_not_scored(plain, store, tmp_path, capsys):
    assert export(plain, tmp_path / "out", "--data", anew(store, tmp_path), "--formats", "safetensors") == 0
    assert "another split" in capsys.readouterr().err
    assert json.loads((tmp_path / "out/student.json").read_text())["measured"] is None


@pytest.mark.parametrize("name", ["student.onnx", "student.safetensors"])
def test_an_exported_file_is_evaluated_as_its_checkpoint(plain, exported, store, tmp_path, capsys, name):
    flags = ["--split", "test", "--jobs", "1", "--data", str(store / "store")]
    out = copied(exported, tmp_path)
    folder = Path(shutil.copytree(plain, tmp_path / "run"))
    assert evaluate_main(["--checkpoint", str(folder), *flags]) == 0
    assert evaluate_main(["--checkpoint", str(out / name), *flags]) == 0
    ours, theirs = (
        json.loads(path.read_text())["rows"]
        for path in (out / "student_test_scores.json", folder / "best_test_scores.json")
    )
    assert ours == theirs
    assert evaluate_main(["--checkpoint", str(out / name), *flags[:-1], str(anew(store, tmp_path)), "--again"]) == 2
    assert "another split" in capsys.readouterr().err
