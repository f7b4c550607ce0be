"""One command from scans and any teacher to an exported student: killed anywhere, it ends in the same student."""

import json
import os
import runpy
import signal
import statistics
import sys
from functools import partial
from pathlib import Path
from unittest.mock import patch

import nibabel
import numpy as np
import pytest
import yaml
from forked import forked
from raw_cases import KITS, save
from safetensors.numpy import load_file
from test_dicom import write_series
from test_teach_nnunet import Stub, model_folder, written
from test_teach_onnx import network, sidecar
from tiny_runs import Tiny, tiny

from datasets.slices.soft_maps import read_maps
from datasets.splits import DEFAULT_RATIOS, split_patients
from networks import SEGMENTATION
from scripts import Distill
from tests.teachers import checkpoint_of
from utils.planning import stages
from utils.planning.unlabeled import spacing_of_scans
from utils.recipe.schema import ROOT
from utils.teaching.teach import _open

__all__ = ["tiny"]  # a fixture
# In which stage, and at which of its renames there, a process dies, one after the other
KILLS = (("slices", 4), ("maps", 3), ("training", 1), ("training", 4), ("test", 1), ("export", 1))
SHAPE = (4, 32, 32)  # slices of 2.5 mm, rows and columns of 0.8 mm


@pytest.fixture
def scans(tmp_path, monkeypatch) -> Path:
    """Four CT volumes in which a block of 100 HU lies in noise around 0 HU, below air."""
    monkeypatch.setitem(SEGMENTATION, "tiny", Tiny)
    for number in range(4):
        image = np.random.default_rng(number).integers(-40, 40, SHAPE)
        image[:, 10:20, 8 + number : 20] = 100
        image[:, :2] = -1000
        save(tmp_path / f"scans/scan_{number}.nii.gz", image.astype(np.int16), KITS)
    return tmp_path / "scans"


@pytest.fixture
def onnx(tmp_path) -> list[str]:
    """A network of volumes that finds what is above 50 HU."""
    weight, bias = np.float32([0, 0.1]).reshape(2, 1, 1, 1, 1), np.float32([0, -5])
    file, _, _ = network(tmp_path / "net.onnx", [4, 16, 16], weight=weight, bias=bias)
    how = {"classes": ["block"], "orientation": "SPL", "patch": [4, 16, 16], "clip": None, "mean": 0, "deviation": 1}
    (tmp_path / "seen.json").write_text(json.dumps({"train": ["another"], "val": []}))
    beside = sidecar(tmp_path / "net.yaml", spacing=[2.5, 0.8, 0.8], **how)
    return ["--onnx", str(file), "--sidecar", str(beside), "--seen", str(tmp_path / "seen.json")]


def in_this_process(stage: stages.Stage) -> int:
    """Run a stage as `python` does, its training and export small."""
    small = {"training": ["--training.precision=32-true"], "export": ["--formats", "safetensors"]}
    words = [*stage.command, *small.get(stage.name, [])]
    with patch.object(sys, "argv", words), patch.object(sys, "path", [*sys.path]):
        try:
            runpy.run_path(str(ROOT / words[0]), run_name="__main__")
        except SystemExit as end:
            return int(end.code or 0)
    return 0


def words_of(scans: Path, output: Path, *teacher: object) -> list[str]:
    given = ["--scans", str(scans), "--student", "tiny", "--output", str(output), "--epochs", "2", "--jobs", "1"]
    return [*given, *map(str, teacher)]


def distill(words: list[str], die_at: tuple[str, int] | None = None) -> None:
    """The command in this process, which dies in a stage when it is about to put its n-th file or folder in place."""
    done: dict[str, int] = {}
    now = ""

    def run_stage(stage: stages.Stage) -> int:
        nonlocal now
        now = stage.name
        return in_this_process(stage)

    def dying(rename, *arguments, **how):
        done[now] = done.get(now, 0) + 1
        if (now, done[now]) == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(*arguments, **how)

    renames = {name: partial(dying, getattr(os, name)) for name in ("replace", "rename")}
    with patch.object(stages, "run_stage", run_stage), patch.multiple(os, **renames):
        assert Distill.main(words) == 0


def test_killed_anywhere_it_ends_in_the_same_student(scans, onnx, tmp_path):
    words = {name: words_of(scans, tmp_path / name, *onnx) for name in ("whole", "killed")}
    distill(words["whole"])
    _open.cache_clear()  # no child may inherit its threads
    statuses = [forked(lambda at=at: distill(words["killed"], at)) for at in KILLS]
    assert statuses == [-signal.SIGKILL] * len(KILLS)
    assert forked(lambda: distill(words["killed"])) == 0
    one, other = (load_file(tmp_path / name / "export/student.safetensors") for name in words)
    assert one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one)
    results = [json.loads((tmp_path / name / "run/test.json").read_text()) for name in words]
    assert results[0]["rows"] == results[1]["rows"] and "none was seen" in results[0]["labels"]
    recipe = yaml.safe_load((tmp_path / "whole/student.yaml").read_text())
    seen = {"augment": ["flip", "affine", "intensity"], "window": [50, 150], "neighbors": 1}
    assert {key: recipe["data"][key] for key in seen} == seen  # a block of 100 HU, and slices of 2.5 mm


def left_by_others(scans: Path, folder: Path) -> Path:
    for file in scans.iterdir():
        image = nibabel.load(file)
        save(folder / file.name, (np.asarray(image.dataobj) > 50).astype(np.uint8), image.affine)
    return folder


@pytest.fixture
def teachers(scans, slice_store, tmp_path, monkeypatch) -> dict[str, tuple]:
    """The flags of a checkpoint, of an nnU-Net whose predictor is a stub, and of labels that lie in a folder."""
    stub = Stub()
    stub.list_of_parameters = [2.0, 2.0]
    monkeypatch.setattr("utils.teaching.nnunet._predictor", lambda *arguments: stub)
    file = written(tmp_path / "splits", (["a"], ["b"]), (["b"], ["a"]))
    return {
        "checkpoint": (
            "--teacher",
            checkpoint_of(slice_store, tmp_path / "teacher/best.ckpt", window=(-50, 60)).parent,
        ),
        "nnunet": ("--nnunet", model_folder(tmp_path), "--splits_final", file, "--no_mirror", "--only", "kidney"),
        "maps": ("--maps", left_by_others(scans, tmp_path / "left"), "--classes", "block", "--allow_leak"),
    }


@pytest.mark.parametrize("kind", ["checkpoint", "nnunet", "maps"])
def test_any_teacher_teaches_and_what_is_done_is_not_done_again(teachers, kind, scans, tmp_path, capsys, monkeypatch):
    began = []

    def run_stage(stage: stages.Stage) -> int:
        began.append(stage.name)
        return 3 if stage.name == "training" else in_this_process(stage)

    monkeypatch.setattr(stages, "run_stage", run_stage)
    words = words_of(scans, tmp_path / "out", *teachers[kind])
    if kind == "maps":
        (tmp_path / "left/scan_2.nii.gz").rename(tmp_path / "scan_2.nii.gz")
        assert Distill.main(words) == 1
        assert "maps ended with status 0 (1 scans have no maps, scan_2: give" in capsys.readouterr().out
        (tmp_path / "scan_2.nii.gz").rename(tmp_path / "left/scan_2.nii.gz")
    began.clear()
    assert Distill.main(words) == 3
    assert began == ["slices"] * (kind != "maps") + ["maps", "training"]
    printed = capsys.readouterr().out
    assert "training ended with status 3 (no epoch has ended); the same command goes on from here" in printed
    assert f"--config {tmp_path / 'out/student.yaml'}{' --allow_leak' * (kind == 'maps')}\n" in printed
    assert Distill.main(words) == 3
    printed = capsys.readouterr().out
    assert "1 slices: done before: python scripts/SliceMaker.py --inpath" in printed
    assert f"--splits train val test --{kind} " in printed and "2 maps: done before: python scripts/Teach" in printed
    (classes, window) = {
        "checkpoint": (("kidney", "tumor"), [-50, 60]),
        "nnunet": (("kidney",), [-40, 100]),
        "maps": (("block",), [50, 150]),
    }[kind]
    assert read_maps(tmp_path / "out/maps").classes == classes
    recipe = yaml.safe_load((tmp_path / "out/student.yaml").read_text())
    assert recipe["data"]["window"] == window and recipe["data"]["neighbors"] == (kind != "checkpoint")
    assert Distill.main([*words, "--epochs", "7"]) == 2
    assert "student.yaml: is of other flags" in capsys.readouterr().err


def test_what_cannot_go_through_is_refused_before_anything_is_made(
    teachers, onnx, scans, tmp_path, capsys, monkeypatch
):
    monkeypatch.delenv("nnUNet_preprocessed", raising=False)
    (tmp_path / "wrong.yaml").write_text("classes: 3")
    words, (teacher, *_) = words_of(scans, tmp_path / "out"), teachers["checkpoint"][1:]
    for given, said in (
        (["--nnunet", tmp_path / "none"], "none: no such file or folder"),
        (teachers["nnunet"][:2], "no splits_final.json is found for it"),
        ([*onnx[:3], tmp_path / "wrong.yaml", *onnx[4:]], "wrong.yaml: "),
        (onnx[:2], "net.onnx: give --sidecar YAML"),
        (onnx[:4], "net.onnx: whom it has learned from is not known: name them with --seen"),
        (teachers["maps"][:4], "left: whom it has learned from is not known"),
        (["--teacher", teacher, "--modality", "MR"], "was trained on CT"),
        (["--teacher", teacher, "--student", "tyni"], "--student"),
    ):
        assert Distill.main([*words, *map(str, given)]) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_teacher_that_finds_nothing_teaches_nobody(scans, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(stages, "run_stage", in_this_process)
    for file in scans.iterdir():
        save(tmp_path / "left" / file.name, np.zeros(SHAPE, np.uint8), KITS)
    flags = ("--maps", tmp_path / "left", "--classes", "block", "--allow_leak")
    assert Distill.main(words_of(scans, tmp_path / "out", *flags)) == 2
    assert "the teacher finds no block in 2 training scans" in capsys.readouterr().err


def test_scans_of_other_pixels_are_resampled_to_their_median(tmp_path):
    sizes = {f"scan_{number}": size for number, size in enumerate((0.5, 0.6, 0.7, 0.9, 1.1, 1.4, 1.6))}
    for name, size in sizes.items():
        save(tmp_path / f"scans/{name}.nii.gz", np.zeros((3, 4, 5), np.int16), KITS * [1, size / 0.8, size / 0.8, 1])
    write_series(tmp_path / "scans/series")  # of 0.8 x 0.6 mm
    train = split_patients([*sizes, "series"], DEFAULT_RATIOS, 0)["train"]
    assert spacing_of_scans(tmp_path / "scans", None, 0) == round(
        statistics.median((sizes | {"series": 0.7})[name] for name in train), 2
    )
    for name in sizes:
        save(tmp_path / f"scans/{name}.nii.gz", np.zeros((3, 4, 5), np.int16), KITS)
    assert spacing_of_scans(tmp_path / "scans", None, 0) is None
