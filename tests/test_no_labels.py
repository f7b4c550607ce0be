"""Training where nobody labeled the scans: on a teacher's answers alone, and beside labeled slices as a pool."""

import csv
import json
import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_store
from soft_map_folders import write_maps
from tiny_runs import STUDENT, assert_same_weights, copied, refused, run_teacher, taught, tiny

from datasets.slices.dataset import SliceDataset
from datasets.slices.soft_maps import MapsWriter, read_maps
from datasets.slices.store import read_index, read_slice
from datasets.slices.taught import SoftTeacher
from datasets.slices.transforms import unpad
from scripts.compare import main as compare
from scripts.evaluate import main as evaluate
from utils.experiment.run import main
from utils.experiment.soft_check import soft_targets
from utils.recipe.command_line import parse
from utils.recipe.schema import ROOT, DistillationRecipe
from utils.training import checkpoints

__all__ = ["copied", "taught", "tiny"]  # fixtures
ALONE = ["--task_loss=null", f"--config={ROOT / 'configs/methods/hinton.yaml'}"]
SPLIT = {"train": ["scan_0", "scan_1"], "val": ["scan_2"], "test": ["scan_3"]}


@cache
def scans_of(store: Path) -> Path:
    """The images of four cases of a store under other names, a bit brighter and without labels; a run beside them."""
    volumes: dict[str, list[np.ndarray]] = {}
    for record in read_index(store):
        volumes.setdefault(record.case, []).append(read_slice(record.path)[0] + 1)
    images = [np.stack(slices) for case, slices in sorted(volumes.items()) if case != "case_00001"]
    cases = {f"scan_{n}": (image, np.zeros((len(image), 1, 1), np.uint8)) for n, image in enumerate(images[:4])}
    root = write_store(store.parent / "unlabeled" / "scans", cases, "CT", {}, [], "all", "unlabeled", SPLIT)
    assert run(root, root.parent / "run", store.parent / "teacher", "--mode=both") == 0
    return root


@pytest.fixture
def scans(taught, capsys) -> Path:
    """Only to be read."""
    root = scans_of(taught)
    capsys.readouterr()
    return root


def run(store, output, teacher, *flags, recipe=ALONE) -> int:
    given = [*STUDENT, *recipe, f"--data.root={store}", f"--output={output}", f"--teacher={teacher}", *flags]
    return main(parse(DistillationRecipe, "test", given))


def test_every_score_of_a_student_without_labels_says_so(scans):
    checkpoint = checkpoints.load(scans.parent / "run")
    assert checkpoint["recipe"]["task_loss"] is None and checkpoint["recipe"]["metric"]["against"] == "teacher"
    assert checkpoint["preprocessing"]["class_names"] == ["tumor"]
    assert all(name.startswith("agreement/") for name in checkpoint["scores"]["scores"])
    with (scans.parent / "run/history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert "agreement/dice" in rows[0] and "dice" not in rows[0]
    result = json.loads((scans.parent / "run/test.json").read_text())
    assert {row["case"] for row in result["rows"]} == {"scan_3"} and "none was seen" in result["labels"]
    assert all(name.startswith("agreement/") for name in result["scores"]) and "no label" in result["empty_mask_rule"]


def test_the_targets_of_agreement_are_what_the_teacher_answers(taught, scans):
    teacher = checkpoints.load(taught.parent / "teacher")
    val = SliceDataset(scans, "val", window=teacher["preprocessing"]["window"], crop=32, class_names=["tumor"])
    batch = val.batch(range(len(val)))
    with torch.no_grad():
        answers = unpad(checkpoints.rebuild(teacher)(batch["image"]).argmax(1), batch["size"])
    (row,) = checkpoints.load(scans.parent / "run")["scores"]["cases"]
    assert 0 < row["target_voxels"] == int((answers == 1).sum())


def test_a_finished_run_without_labels_is_resumed_by_the_flags_that_began_it(taught, scans, tmp_path, capsys):
    copy = shutil.copytree(scans.parent / "run", tmp_path / "run")
    assert run(scans, copy, taught.parent / "teacher", "--resume=true") == 0
    assert_same_weights(copy, scans.parent / "run")
    assert "resumes after 2 epochs" in capsys.readouterr().out


def test_without_a_task_loss_the_labels_of_a_labeled_store_change_nothing(copied, tmp_path):
    teacher = copied.parent / "teacher"
    assert run(copied, tmp_path / "one", teacher, "--training.epochs=1") == 0
    for record in read_index(copied):
        image, label = read_slice(record.path)
        np.savez(record.path, image=image, label=label[::-1] if record.split == "train" else label)
    assert run(copied, tmp_path / "other", teacher, "--training.epochs=1", "--allow_leak") == 1
    content = checkpoints.load(teacher)
    del content["data"]  # of labels that have changed since
    checkpoints.save(content, teacher / "best.ckpt")
    assert run(copied, tmp_path / "other", teacher, "--training.epochs=1", "--data.labeled=0.7") == 0
    assert_same_weights(tmp_path / "one", tmp_path / "other")
    assert checkpoints.load(tmp_path / "one")["recipe"]["data"]["labeled"] == 0


def test_what_was_learned_without_labels_is_tested_on_labels_where_there_are_some(taught, scans, tmp_path, capsys):
    copy = shutil.copytree(scans.parent / "run", tmp_path / "run")
    assert run(taught, copy, taught.parent / "teacher", "--mode=test") == 0
    printed = capsys.readouterr().out
    assert "labels: none was seen in training" in printed
    result = json.loads((copy / "test.json").read_text())
    assert "dice/tumor" in result["scores"] and {row["case"] for row in result["rows"]} == {"case_00004", "case_00005"}
    assert compare([f"alone={copy}"]) == 0 and "labels: none was seen in training by alone: " in capsys.readouterr().out


def test_a_test_by_soft_maps_knows_them_and_is_read_again_with_others(taught, scans, tmp_path, capsys):
    copy = shutil.copytree(scans.parent / "run", tmp_path / "run")
    (copy / "test.json").unlink()
    checkpoint = checkpoints.load(copy)
    checkpoint["recipe"]["teacher"] = {"maps": str(tmp_path / "maps")}
    checkpoints.save(checkpoint, copy / "best.ckpt")
    hashes = []
    for sure in (0.9, 0.8):
        shutil.rmtree(tmp_path / "maps", ignore_errors=True)
        write_maps(tmp_path / "maps", scans, {"scan_3": np.full((6, 1, 40, 48), sure)}, ["tumor"])
        assert run(scans, copy, taught.parent / "teacher", "--mode=test", "--training.pictures=0") == 0
        hashes.append(json.loads((copy / "test.json").read_text())["maps_sha256"])
    assert hashes[0] != hashes[1]
    assert "read again, since the soft maps that the student is held to have changed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (['--task_loss={"name": "dice_ce"}'], "has no labels: set task_loss to null"),
        (["--metric.against=labels"], "metric.against: "),
        (["--data.thin_background=0.5"], "thin_background 0.5: no label says"),
        ([f"--config={ROOT / 'configs/methods/emkd.yaml'}"], "leave these terms out"),
        (["--teacher="], "there is no teacher to learn from"),
        (["--data.class_names=[liver]"], "class_names"),
    ],
)
def test_what_needs_labels_or_a_teacher_is_refused_in_one_line(taught, scans, tmp_path, capsys, flags, said):
    assert run(scans, tmp_path / "run", taught.parent / "teacher", *flags) == 1
    assert said in refused(capsys)


def test_nobody_trains_or_scores_on_scans_as_if_they_had_labels(taught, scans, tmp_path, capsys):
    assert run_teacher(scans, tmp_path / "run") == 1
    assert "has no labels" in refused(capsys)
    copy = shutil.copytree(taught.parent / "teacher", tmp_path / "teacher")
    assert run_teacher(scans, copy, "--mode=test") == 1
    assert "has no labels, so nothing can be scored on it" in refused(capsys)
    for place, root in ((copy, ["--data", str(scans)]), (scans.parent / "run", [])):
        assert evaluate(["--checkpoint", str(place), "--split", "val", *root]) == 2
        assert "has no labels, so nothing can be scored on it" in capsys.readouterr().err


def pooled(taught, pool, **arguments) -> SliceDataset:
    return SliceDataset(taught, "train", crop=32, pool=pool, **arguments)


def test_a_pool_gives_its_training_slices_without_labels(taught, scans):
    alone, both = SliceDataset(taught, "train", crop=32), pooled(taught, scans)
    assert set(both.cases) - set(alone.cases) == {"scan_0", "scan_1"} == both.unlabeled
    assert both.split_patients("train") == sorted([*alone.patients, "scan_0", "scan_1"])
    targets = both.batch(range(len(both)))["target"].flatten(1)
    assert torch.equal((targets >= 0).all(1), both.labeled) and bool((targets[~both.labeled] == -1).all())
    assert both.labeled.sum() == len(alone) and both.class_names == alone.class_names
    assert "slices of" in both.notes[0] and SliceDataset(taught, "val", crop=32, pool=scans).cases == ["case_00003"]
    few = pooled(taught, scans, labeled=0.34)
    assert few.unlabeled - {"scan_0", "scan_1"} == SliceDataset(taught, "train", crop=32, labeled=0.34).unlabeled


def test_a_student_learns_from_labels_and_a_pool(taught, scans, tmp_path, capsys):
    flags = (f"--data.pool={scans}", "--training.epochs=1", "--mode=both")
    assert run(taught, tmp_path / "run", taught.parent / "teacher", *flags, recipe=[]) == 0
    assert "note: pool: 12 slices" in capsys.readouterr().out
    assert "scan_0" in checkpoints.load(tmp_path / "run")["split"]["train"]


def changed_pool(scans, tmp_path, **manifest) -> Path:
    pool = shutil.copytree(scans, tmp_path / "pool")
    content = json.loads((pool / "dataset.json").read_text()) | manifest
    (pool / "dataset.json").write_text(json.dumps(content))
    return pool


@pytest.mark.parametrize(
    ("manifest", "said"), [({"modality": "MR"}, "its modality is MR"), ({"spacing": 1.5}, "its spacing is 1.5")]
)
def test_a_pool_of_other_slices_is_refused(taught, scans, tmp_path, manifest, said):
    with pytest.raises(ValueError, match=said):
        pooled(taught, changed_pool(scans, tmp_path, **manifest))


def test_a_pool_with_patients_or_scans_that_are_held_out_is_refused(taught, scans, tmp_path):
    with pytest.raises(ValueError, match=r"has a case of this name as well \(case_00000 in train"):
        pooled(taught, taught)
    pool = changed_pool(scans, tmp_path)
    index = (pool / "index.csv").read_text()
    held = [line.split(",")[6:10] for line in (taught / "index.csv").read_text().splitlines() if "case_00003," in line]
    lines = []
    for line in index.splitlines():
        cells = line.split(",")
        if cells[0] == "scan_1":  # the very scan of a val case
            shutil.copy(taught / f"case_00003/{int(cells[2]):04d}.npz", pool / cells[3])
            cells[6:10] = held[0]
        lines.append(",".join(cells))
    (pool / "index.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=r"scan_1 is the scan case_00003, which .* holds out"):
        pooled(taught, pool)


def test_held_out_scans_without_soft_maps_are_named(taught, tmp_path):
    """case_00003 is the only val case, and the maps are of a training case."""
    writer = MapsWriter(tmp_path / "maps", taught, ["kidney", "tumor"], {"teachers": []}, None, {}, ["case_00000"])
    writer.write("case_00000", np.zeros(writer.shape("case_00000"), np.float32), [])
    data = {"name": "slices", "root": str(taught), "crop": 32}
    with pytest.raises(ValueError, match=r"has no soft maps of 1 val cases \(case_00003\).* --splits val"):
        soft_targets(SoftTeacher([read_maps(tmp_path / "maps")]), data, "val")
