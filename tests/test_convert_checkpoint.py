"""scripts/ConvertCheckpoint.py: published weights become a checkpoint that predicts, is exported and teaches."""

import argparse
import json
import os
import re
import shlex

import pytest
import torch
from published_resnet18 import resnet18_as_published
from raw_cases import hounsfield
from raw_cases import save as save_volume

from scripts import evaluate, export, predict
from scripts.ConvertCheckpoint import main
from tests.conftest import SPLIT
from utils.experiment.guards import refuse_leak
from utils.experiment.run import main as run
from utils.experiment.test import test as score_test
from utils.recipe.command_line import parse
from utils.recipe.schema import ROOT, DistillationRecipe
from utils.training import checkpoints


@pytest.fixture
def lightning(tmp_path):
    """What EMKD's training saves of ResNet-18 for liver."""
    weights, _ = resnet18_as_published()
    options = {"hparams": argparse.Namespace(dataset="lits", task="organ", model="resnet18", gpus=[8])}
    states = {"optimizer_states": [{"state": {}}], "epoch": 29, "hyper_parameters": options}
    torch.save({"state_dict": {f"net.{key}": value for key, value in weights.items()}} | states, tmp_path / "emkd.ckpt")
    return tmp_path / "emkd.ckpt"


def convert(file, output, *flags) -> int:
    return main(["--checkpoint", str(file), "--output", str(output), *map(str, flags)])


def line(capsys) -> str:
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    return error


def test_what_the_file_says_and_what_it_does_not_is_in_the_checkpoint(lightning, tmp_path, capsys):
    assert convert(lightning, tmp_path / "run") == 0
    said = capsys.readouterr().out
    checkpoint = checkpoints.load(tmp_path / "run")
    assert checkpoint["network"] == {"name": "resnet18", "num_classes": 2, "in_channels": 1, "as_published": True}
    preprocessing = checkpoint["preprocessing"]
    assert (preprocessing["window"], preprocessing["class_names"]) == ([-60.0, 140.0], ["liver"])  # EMKD's of LiTS
    assert (preprocessing["task"], preprocessing["modality"], preprocessing["crop"]) == ("organ", "CT", 384)
    assert checkpoint["epoch"] == 29 and checkpoint["published"]["sha256"] == checkpoints.sha256(lightning)
    assert checkpoint["split"] == {"sha256": "unknown"}
    for part in ("resnet18", "window -60 to 140 HU", "split: unknown", "liver", str(tmp_path / "run/best.ckpt")):
        assert part in said
    image = torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        expected = resnet18_as_published()[1](image.expand(-1, 3, -1, -1))
        found = checkpoints.rebuild(checkpoint)(image)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_flags_win_over_what_the_file_says(lightning, tmp_path):
    split = tmp_path / "split.json"
    split.write_text(json.dumps(SPLIT))
    flags = ("--window", -40, 160, "--task", "tumor", "--crop", 320, "--split_file", split, "--data", "data/mine")
    assert convert(lightning, tmp_path / "a.ckpt", *flags) == 0
    checkpoint = checkpoints.load(tmp_path / "a.ckpt")
    assert checkpoint["preprocessing"]["window"] == [-40.0, 160.0] and checkpoint["preprocessing"]["crop"] == 320
    assert checkpoint["preprocessing"]["class_names"] == ["tumor"]
    assert {name: checkpoint["split"][name] for name in SPLIT} == SPLIT and len(checkpoint["split"]["sha256"]) == 64
    assert checkpoint["recipe"]["data"]["root"] == "data/mine"


def test_of_a_distillation_the_student_is_taken(lightning, tmp_path, capsys):
    content = torch.load(lightning, weights_only=False)
    teacher, _ = resnet18_as_published(seed=1)
    content["state_dict"] |= {f"t_net.{key}": value for key, value in teacher.items()}
    torch.save(content, tmp_path / "kd.ckpt")
    assert convert(tmp_path / "kd.ckpt", tmp_path / "student.ckpt") == 0
    assert "left out: resnet18 under t_net." in capsys.readouterr().out
    assert convert(tmp_path / "kd.ckpt", tmp_path / "teacher.ckpt", "--prefix", "t_net.") == 0
    student, taught = (checkpoints.load(tmp_path / f"{name}.ckpt")["weights"] for name in ("student", "teacher"))
    assert torch.equal(student["encoder.bn1.weight"], content["state_dict"]["net.bn1.weight"])
    assert torch.equal(taught["head.weight"], teacher["last_conv.weight"])


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--network", "raunet"), "is nearest to EMKD's raunet, but it lacks"),
        (("--network", "unet_mbnv2"), "--network unet_mbnv2: no published layout is known; one of raunet"),
        (("--prefix", "model."), "are of none of the published networks"),
        (("--class_names", "a", "b"), "--class_names a b: it has 1 different classes"),
        (("--window", "160", "-40"), "--window 160 -40: the lower end comes first"),
        (("--modality", "MR", "--window", "0", "1"), "--window is in HU"),
        (("--crop", "100"), "--crop 100: give a multiple of 32"),
        (("--split_file", "nowhere.json"), "nowhere.json"),
    ],
)
def test_a_wrong_wish_is_one_line_and_nothing_is_written(lightning, tmp_path, capsys, flags, said):
    before = sorted(tmp_path.rglob("*"))
    assert convert(lightning, tmp_path / "deep/new.ckpt", *flags) == 2
    assert said in line(capsys) and sorted(tmp_path.rglob("*")) == before


def test_a_split_of_other_patients_is_refused(lightning, tmp_path, slice_store, capsys):
    split = tmp_path / "split.json"
    split.write_text(json.dumps({"train": ["volume-1"], "val": [], "test": ["volume-2"]}))
    assert convert(lightning, tmp_path / "a.ckpt", "--split_file", split, "--data", slice_store) == 2
    assert "names none of the patients of" in line(capsys) and not (tmp_path / "a.ckpt").exists()


def test_the_command_of_the_page_runs(lightning, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (command,) = re.findall(r"python scripts/ConvertCheckpoint.py (.*)", (ROOT / "docs/training.md").read_text())
    assert main(shlex.split(command)) == 0 and checkpoints.load("runs/emkd")["published"]["file"] == "emkd.ckpt"


def test_nothing_is_replaced(lightning, tmp_path, capsys):
    (tmp_path / "mine.ckpt").write_text("mine")
    assert convert(lightning, tmp_path / "mine.ckpt") == 2
    assert "mine.ckpt: is there already" in line(capsys) and (tmp_path / "mine.ckpt").read_text() == "mine"
    (tmp_path / "run").mkdir()
    (tmp_path / "run/last.ckpt").write_text("mine")
    assert convert(lightning, tmp_path / "run") == 2 and "run: holds a run" in line(capsys)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["last.ckpt"]


def test_weights_that_are_not_finite_are_refused(lightning, tmp_path, capsys):
    content = torch.load(lightning, weights_only=False)
    content["state_dict"]["net.bn1.weight"][3] = torch.nan
    torch.save(content, lightning)
    assert convert(lightning, tmp_path / "a.ckpt") == 2 and "encoder.bn1.weight is not finite" in line(capsys)


class Canary:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_nothing_in_the_file_is_executed(lightning, tmp_path, capsys):
    torch.save(torch.load(lightning, weights_only=False) | {"callbacks": Canary(tmp_path / "sung")}, lightning)
    assert convert(lightning, tmp_path / "a.ckpt") == 2
    assert "names posix.mkdir, which is not read" in line(capsys)
    assert not (tmp_path / "sung").exists() and not (tmp_path / "a.ckpt").exists()


@pytest.mark.parametrize("kind", ["tckpt", "predict", "export"])
def test_a_published_file_as_it_is_says_how_to_convert_it(lightning, tmp_path, slice_store, capsys, kind):
    if kind == "tckpt":
        arguments = [f"--data.root={slice_store}", "--smodel", "resnet_18", "--tckpt", str(lightning)]
        recipe = parse(DistillationRecipe, "test", [*arguments, f"--output={tmp_path / 'run'}", "--data.crop=32"])
        assert run(recipe) != 0
    elif kind == "predict":
        save_volume(tmp_path / "a.nii.gz", hounsfield(0))
        arguments = ["--checkpoint", lightning, "--input", tmp_path / "a.nii.gz", "--output", tmp_path / "out"]
        assert predict.main(list(map(str, arguments))) == 2
    else:
        assert export.main(["--checkpoint", str(lightning), "--output", str(tmp_path / "out")]) == 2
    command = f"python scripts/ConvertCheckpoint.py --checkpoint {lightning} --output"
    error = capsys.readouterr().err
    assert "weights of the published resnet18" in error and command in error and "Traceback" not in error


def test_it_predicts_and_is_exported(lightning, tmp_path):
    assert convert(lightning, tmp_path / "run") == 0
    save_volume(tmp_path / "in/a.nii.gz", hounsfield(0))
    flags = ["--checkpoint", tmp_path / "run", "--input", tmp_path / "in", "--output", tmp_path / "out"]
    assert predict.main(list(map(str, flags))) == 0 and (tmp_path / "out/a.nii.gz").is_file()
    flags = ["--checkpoint", tmp_path / "run", "--output", tmp_path / "exported", "--formats", "safetensors"]
    assert export.main(list(map(str, flags))) == 0
    assert "Patients: not known" in (tmp_path / "exported/README.md").read_text()


def teach(store, teacher, output, *flags) -> int:
    arguments = [
        f"--config={ROOT / 'configs/kits19_student.yaml'}",
        f"--config={ROOT / 'configs/methods/hinton.yaml'}",
        *('--network={"name": "unet", "widths": [4, 4, 4, 4, 4]}', f"--data.root={store}", "--data.crop=32"),
        *("--training.epochs=1", "--training.batch_size=6", "--training.precision=32-true"),
        *(f"--teacher={teacher}", f"--output={output}", *flags),
    ]
    return run(parse(DistillationRecipe, "test", arguments))


def test_it_teaches_once_the_leak_is_accepted_or_ruled_out(lightning, tmp_path, slice_store, capsys):
    flags = ("--dataset", "kits", "--task", "tumor", "--crop", 32)
    assert convert(lightning, tmp_path / "unknown.ckpt", *flags, "--data", slice_store) == 0
    assert teach(slice_store, tmp_path / "unknown.ckpt", tmp_path / "a") != 0
    error = capsys.readouterr().err
    assert "who they were trained on is not known" in error and "--split_file" in error and "--allow_leak" in error
    assert teach(slice_store, tmp_path / "unknown.ckpt", tmp_path / "b", "--allow_leak") == 0
    assert "has no scores of cases" in capsys.readouterr().out
    flags = (*flags, "--split_file", slice_store / "split.json", "--data", slice_store)
    assert convert(lightning, tmp_path / "known.ckpt", *flags) == 0
    split = {**SPLIT, "sha256": ""}
    refuse_leak(checkpoints.load(tmp_path / "known.ckpt"), split, "known.ckpt")
    with pytest.raises(ValueError, match="train patients include 1 of the student's test patients"):
        refuse_leak(checkpoints.load(tmp_path / "known.ckpt"), {**split, "test": ["case_00001"]}, "known.ckpt")
    arguments = ["--checkpoint", str(tmp_path / "unknown.ckpt"), "--split", "test"]
    assert evaluate.main(arguments) == 2 and "--predictions and --labels" in line(capsys)


def test_a_converted_run_is_not_tested_where_its_patients_are_unknown(lightning, tmp_path, slice_store):
    assert convert(lightning, tmp_path / "run", "--dataset", "kits", "--task", "tumor", "--data", slice_store) == 0
    checkpoint = checkpoints.load(tmp_path / "run")
    recipe = parse(DistillationRecipe, "test", [f"--output={tmp_path / 'run'}", f"--data.root={slice_store}"])
    assert checkpoint["recipe"]["data"]["root"] == str(slice_store)
    with pytest.raises(ValueError, match="who they were trained on is not known"):
        score_test(recipe)


@pytest.mark.parametrize(("name", "said"), [("", "is a folder: give the file"), ("gone.ckpt", "no such file: check")])
def test_what_is_no_file_is_named(tmp_path, capsys, name, said):
    assert convert(tmp_path / name, tmp_path / "out.ckpt") == 2
    assert said in capsys.readouterr().err
