"""scripts/evaluate.py: a checkpoint against a split of its slice store."""

import json
import shutil

import pytest
import torch
from lightning_fabric import Fabric

from datasets.slices.dataset import SliceDataset
from networks import NETWORKS
from scripts.evaluate import main
from tests.conftest import SHA256, SPLIT
from tests.raw_cases import KITS
from utils.evaluation.inference import evaluate
from utils.evaluation.metrics import VolumeDice
from utils.training import checkpoints


@pytest.fixture
def kits_run(slice_store, tmp_path):
    """An untrained network's checkpoint on the slice store, of the geometry of KiTS files, with a wrong pixdim."""
    for case in (case for cases in SPLIT.values() for case in cases):
        geometry = {"affine": KITS.tolist(), "spacing": [1.0, 1.0, 1.0], "axes": [0, 1, 2]}
        (slice_store / case / "geometry.json").write_text(json.dumps(geometry))
    torch.manual_seed(0)
    arguments = {"in_channels": 1, "num_classes": 3, "widths": [2, 2, 2, 2, 2]}
    section, network = {"name": "unet", **arguments}, NETWORKS["unet"](**arguments)
    dataset = SliceDataset(slice_store, "val", task="all")
    checkpoint = {
        "network": section,
        "weights": network.state_dict(),
        "preprocessing": dataset.preprocessing,
        "split": {**SPLIT, "sha256": SHA256},
        "scores": {},
        "recipe": {
            "data": {"name": "slices", "root": str(slice_store), "task": "all", "crop": 64},
            "training": {"accelerator": "cpu", "precision": "32-true", "batch_size": 4},
        },
    }
    (tmp_path / "run").mkdir()
    checkpoints.save(checkpoint, tmp_path / "run/best.ckpt")
    return tmp_path / "run"


def scored(run, *flags, split="test"):
    status = main(["--checkpoint", str(run), "--split", split, "--jobs", "1", *flags])
    file = run / f"best_{split}_scores.json"
    return status, json.loads(file.read_text()) if file.is_file() else None


def test_a_checkpoint_scores_as_the_metric_of_its_training(kits_run):
    status, found = scored(kits_run)
    assert status == 0
    checkpoint = checkpoints.load(kits_run)
    dataset = SliceDataset(checkpoint["recipe"]["data"]["root"], "test", task="all", crop=64)
    metric = VolumeDice(dataset.class_names)
    network = checkpoints.rebuild(checkpoint)
    _, rows = evaluate(Fabric(accelerator="cpu"), network, dataset, [metric], batch_size=4)
    assert [row["case"] for row in found["rows"]] == [row["case"] for row in rows]
    for row, expected in zip(found["rows"], rows, strict=True):
        for key in ("class", "dice", "voe", "abs_rvd", "prediction_voxels", "target_voxels"):
            assert row[key] == pytest.approx(expected[key], abs=1e-12), key
    assert found["rows"][0]["target_ml"] == pytest.approx(rows[0]["target_voxels"] * 2.5 * 0.8 * 0.8 / 1000)
    assert (found["evaluated"]["split"], found["evaluated"]["split_sha256"]) == ("test", SHA256)


def test_scores_of_a_student_that_saw_no_label_say_so(kits_run, capsys):
    checkpoint = checkpoints.load(kits_run)
    checkpoint["recipe"]["task_loss"] = None
    checkpoints.save(checkpoint, kits_run / "best.ckpt")
    _, found = scored(kits_run, split="val")
    assert "note: labels: none was seen in training: " in capsys.readouterr().out
    assert any("none was seen" in note for note in found["notes"])


def test_the_test_split_is_read_once(kits_run, capsys, tmp_path):
    _, first = scored(kits_run)
    store = checkpoints.load(kits_run)["recipe"]["data"]["root"]
    shutil.move(store, f"{store}_away")
    status, second = scored(kits_run, "--tolerance_mm", "3", "--output", str(tmp_path / "copy"))
    assert (status, second) == (0, first)
    assert json.loads((tmp_path / "copy.json").read_text()) == first
    out = capsys.readouterr().out
    assert "its test split was read before" in out
    assert "other settings" in out
    assert scored(kits_run, "--again")[0] == 2  # the store is away: it would have been read
    status, again = scored(kits_run, "--again", "--data", f"{store}_away", "--tolerance_mm", "3")
    assert (status, again["settings"]["tolerance_mm"]) == (0, 3.0)


def test_another_checkpoint_reads_the_test_split_again(kits_run):
    _, first = scored(kits_run)
    content = checkpoints.load(kits_run)
    content["weights"] = {name: weight * 1.5 for name, weight in content["weights"].items()}
    checkpoints.save(content, kits_run / "best.ckpt")
    _, second = scored(kits_run)
    assert second["evaluated"]["checkpoint_sha256"] != first["evaluated"]["checkpoint_sha256"]


@pytest.mark.parametrize(("split", "learned"), [("test", "val"), ("test", "train"), ("val", "train")])
def test_patients_it_learned_from_are_refused(kits_run, capsys, split, learned):
    content = checkpoints.load(kits_run)
    content["split"] = {**SPLIT, "sha256": SHA256, learned: [*SPLIT[learned], SPLIT[split][0]]}
    checkpoints.save(content, kits_run / "best.ckpt")
    assert scored(kits_run, split=split) == (2, None)
    assert SPLIT[split][0] in capsys.readouterr().err


def test_official_numbers_of_a_checkpoint_need_its_labels(kits_run, capsys):
    assert scored(kits_run, "--official", "kits19", split="val")[0] == 0
    assert scored(kits_run, "--official", "lits", split="val")[0] == 2
    assert "needs the classes liver, tumor" in capsys.readouterr().err


def test_a_classifier_is_sent_away(kits_run, capsys):
    content = checkpoints.load(kits_run)
    sizes = {"image_size": 224, "in_channels": 3, "mean": [0.5] * 3, "std": [0.25] * 3}
    content["preprocessing"] = {"kind": "image", "class_names": ["a", "b"], **sizes}
    checkpoints.save(content, kits_run / "best.ckpt")
    assert scored(kits_run)[0] == 2
    assert "classifies images" in capsys.readouterr().err


@pytest.mark.parametrize("section", ["data", "training"])
def test_a_recipe_without_its_sections_is_told(kits_run, capsys, section):
    content = checkpoints.load(kits_run)
    del content["recipe"][section]
    checkpoints.save(content, kits_run / "best.ckpt")
    assert scored(kits_run)[0] == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"no section {section}" in line


def test_an_output_beside_the_test_split_is_not_replaced_unasked(kits_run, capsys, tmp_path):
    (tmp_path / "copy.json").write_text("mine")
    assert scored(kits_run, "--output", str(tmp_path / "copy")) == (2, None)
    assert "is there already" in capsys.readouterr().err
    assert (tmp_path / "copy.json").read_text() == "mine"
