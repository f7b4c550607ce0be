"""An export is there whole or not at all, replaces nothing, and is loaded only where it is what it says."""

import errno
import json
import shutil
from pathlib import Path

import onnx
import pytest
from safetensors.torch import load_file, save_file
from tiny_checkpoints import predict
from tiny_exports import copied, export, exported, networks, plain, store

from datasets.files import alone_in
from utils.exporting import parity
from utils.training import checkpoints

__all__ = ["exported", "networks", "plain", "store"]  # fixtures


def test_a_form_that_answers_otherwise_is_refused_and_the_earlier_export_stays(
    plain, exported, tmp_path, capsys, monkeypatch
):
    out = copied(exported, tmp_path)
    (out / "metadata.json").write_text("{}")  # of an earlier version
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(parity, "TOLERANCE", 0.0)
        assert export(plain, out, "--overwrite", "--formats", "safetensors", "onnx") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "nothing was written" in error
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert export(plain, out, "--overwrite", "--formats", "safetensors", "--val_cases", 1) == 0
    assert {path.name for path in out.iterdir()} == {"student.safetensors", "student.json", "README.md"}
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_a_folder_with_other_things_is_never_replaced(plain, tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("x")
    assert export(plain, tmp_path, "--overwrite", "--formats", "safetensors") == 2
    assert "holds thesis.tex" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("flags", [("--calibration", "0"), ("--val_cases", "-1")])
def test_numbers_that_cannot_be_are_refused(plain, tmp_path, capsys, flags):
    assert export(plain, tmp_path / "out", *flags) == 2
    assert f"{flags[0]} {flags[1]}: give 1 or more" in capsys.readouterr().err


def test_an_export_is_not_exported_again(exported, tmp_path, capsys):
    assert export(exported / "student.onnx", tmp_path / "out") == 2
    assert "is exported already" in capsys.readouterr().err


def changed(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def flip_a_bit(folder: Path) -> None:
    file = folder / "student.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def drop_a_weight(folder: Path) -> None:
    file = folder / "student.safetensors"
    weights = load_file(file)
    weights.pop("head.bias")
    save_file(weights, file)
    known = json.loads((folder / "student.json").read_text())["files"]
    known["student.safetensors"]["sha256"] = checkpoints.sha256(file)
    changed(folder / "student.json", files=known)


def truncate(name: str, share: float):
    def cut(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(share * len(content))])

    return cut


def relabel(folder: Path) -> None:
    model = onnx.load(folder / "student.onnx")
    held = json.loads(model.metadata_props[0].value)
    held["preprocessing"]["class_names"] = ["kidney"]
    onnx.helper.set_model_props(model, {"description": json.dumps(held)})
    onnx.save(model, folder / "student.onnx")


def undescribe(folder: Path) -> None:
    model = onnx.load(folder / "student.onnx")
    del model.metadata_props[:]
    onnx.save(model, folder / "student.onnx")


def preprocess(**changes):
    def change(folder: Path) -> None:
        known = json.loads((folder / "student.json").read_text())["preprocessing"]
        changed(folder / "student.json", preprocessing=known | changes)

    return change


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("student.safetensors", flip_a_bit, "is not the file that"),
        ("student.safetensors", drop_a_weight, "do not fit its network"),
        ("student.safetensors", truncate("student.safetensors", 0.5), "is not the file that"),
        ("student.safetensors", truncate("student.json", 0.5), "holds no description"),
        ("student.safetensors", lambda folder: (folder / "student.json").unlink(), "no such file"),
        ("student.safetensors", lambda folder: (folder / "student.json").write_text("[1]"), "holds no description"),
        ("student.safetensors", lambda folder: changed(folder / "student.json", schema=9), "schema 9"),
        (
            "student.safetensors",
            lambda folder: changed(folder / "student.json", network={"name": "resnet18", "pretrained": "x.pt"}),
            "asks for other weights",
        ),
        ("student.safetensors", preprocess(window="wide"), "preprocessing has window"),
        ("student.safetensors", preprocess(pad_value=float("nan")), "preprocessing has pad_value"),
        ("student.safetensors", preprocess(class_names=["a", "a"]), "preprocessing has class_names"),
        ("student.safetensors", preprocess(crop=-64), "preprocessing has crop"),
        ("student.onnx", truncate("student.onnx", 0.5), "ONNX Runtime cannot load it"),
        ("student.onnx", truncate("student.onnx", 0.0), "ONNX Runtime cannot load it"),
        ("student.onnx", lambda folder: (folder / "student.onnx").write_bytes(b"\x80\x04x."), "cannot load it"),
        ("student.onnx", undescribe, "does not say what it labels"),
        ("student.onnx", relabel, "its description says"),
        ("student.json", lambda folder: None, "is the description"),
        ("gone.onnx", lambda folder: None, "no such file"),
    ],
)
def test_a_file_that_is_not_what_it_says_is_one_clear_line(exported, store, tmp_path, capfd, name, change, message):
    folder = copied(exported, tmp_path)
    change(folder)
    source = store / "raw" / "case_00001" / "imaging.nii.gz"
    assert predict(folder / name, source, tmp_path / "out") == 2
    error = capfd.readouterr().err
    assert error.count("\n") == 1 and message in error
    assert not (tmp_path / "out").exists()


def test_only_what_is_recorded_as_an_export_is_replaced(plain, tmp_path, capsys):
    out = tmp_path / "mine"
    out.mkdir()
    (out / "README.md").write_text("my own words")
    assert export(plain, out, "--overwrite", "--formats", "safetensors") == 2
    assert f"{out}: holds files, but no record of an export" in capsys.readouterr().err
    assert (out / "README.md").read_text() == "my own words" and [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_an_export_set_aside_by_a_killed_run_is_put_back(plain, exported, tmp_path, capsys):
    out = copied(exported, tmp_path)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    out.rename(tmp_path / ".copy.former")  # killed between the two renames
    (tmp_path / ".copy.partial").mkdir()
    (tmp_path / ".copy.partial/student.onnx").write_bytes(b"half")
    assert export(plain, out, "--formats", "safetensors") == 2
    assert "holds an export" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert export(plain, out, "--overwrite", "--formats", "safetensors", "--val_cases", 1) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_foreign_files_in_the_way_of_an_export_stay(plain, tmp_path, capsys):
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial/thesis.tex").write_text("x")
    assert export(plain, tmp_path / "out", "--formats", "safetensors") == 2
    assert "thesis.tex: is in the way" in capsys.readouterr().err
    assert (tmp_path / ".out.partial/thesis.tex").read_text() == "x"


def test_two_exports_at_once_into_one_folder(plain, tmp_path, capsys):
    with alone_in(tmp_path / ".out.partial"):
        assert export(plain, tmp_path / "out", "--formats", "safetensors") == 2
    assert "another command is writing to it" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_earlier_export_and_names_it(plain, exported, tmp_path, capsys, monkeypatch):
    out = copied(exported, tmp_path)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("utils.runs.artifact.write_weights", full)
    assert export(plain, out, "--overwrite", "--formats", "safetensors") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"{out}: No space left on device: free some disk space" in error
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_a_damaged_test_result_beside_a_checkpoint_is_named(plain, tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(plain / "best.ckpt", run)
    (run / "test.json").write_text("{")
    assert export(run, tmp_path / "out", "--formats", "safetensors") == 2
    assert f"export: {run}/test.json: is damaged, or not a test result" in capsys.readouterr().err
