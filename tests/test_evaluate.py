"""scripts/evaluate.py: what it reads, writes, refuses and concludes."""

import csv
import gzip
import json
import os
import re
import shutil
from itertools import combinations, product

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from scipy.stats import wilcoxon

from datasets.slices import SliceDataset
from networks import NETWORKS
from scripts.evaluate import main
from tests.conftest import SHA256, SPLIT
from tests.raw_cases import KITS, LITS, label_of, save
from utils import checkpoints
from utils.inference import evaluate
from utils.metrics import VolumeDice
from utils.scoring import cases as case_scoring
from utils.scoring.cases import Classes, Volumes, score_cases
from utils.scoring.paired_tests import ENOUGH, bootstrap, compare, holm
from utils.scoring.pairs import case_name, find_pairs
from utils.scoring.volumes import EMPTY_MASK_RULES, LesionRule

NO_TUMOR = np.minimum(label_of(), 1)


def kits(root, predictions):
    """KiTS labels of these cases in root/raw, predictions {number: array} in root/predictions."""
    for number, prediction in predictions.items():
        save(root / f"raw/case_{number:05d}/segmentation.nii.gz", label_of(), KITS)
        save(root / f"raw/case_{number:05d}/imaging.nii.gz", label_of(), KITS)
        save(root / f"predictions/case_{number:05d}.nii.gz", prediction, KITS)
    return root


def run(root, *flags):
    arguments = ["--predictions", f"{root}/predictions", "--labels", f"{root}/raw", "--output", f"{root}/scores"]
    return main([*arguments, "--jobs", "1", *flags])


def content(root):
    return json.loads((root / "scores.json").read_text())


def table(root, name="scores"):
    with (root / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


# ---- labels against labels


def test_a_row_for_every_case_and_class_in_both_files(tmp_path, capsys):
    kits(tmp_path, {0: label_of(), 1: NO_TUMOR, 2: np.zeros_like(NO_TUMOR)})
    assert run(tmp_path) == 0
    rows = content(tmp_path)["rows"]
    assert [(row["case"], row["class"]) for row in rows] == [
        (f"case_{number:05d}", name) for number in range(3) for name in ("kidney", "tumor")
    ]
    assert [row["dice"] for row in rows if row["class"] == "tumor"] == [1, 0, 0]
    # label_of: the organ is 3 slices of 4x4 less the tumor, 1 slice of 2x2; a voxel is 2.5 x 0.8 x 0.8 mm
    assert rows[0]["target_ml"] == pytest.approx((3 * 16 - 4) * 1.6 / 1000)
    assert rows[1]["target_ml"] == pytest.approx(4 * 1.6 / 1000)
    written = table(tmp_path)
    assert [(row["case"], row["class"], float(row["dice"])) for row in written] == [
        (row["case"], row["class"], row["dice"]) for row in rows
    ]
    assert (written[3]["hd95_mm"], written[3]["empty"]) == ("", "prediction")
    assert all(row["empty_mask_rule"].startswith("both empty: dice, surface_dice") for row in written)
    assert content(tmp_path)["empty_mask_rules"] == EMPTY_MASK_RULES
    assert {"hd95_mm", "assd_mm", "prediction_ml", "target_ml", "tolerance_mm"} <= set(written[0])
    told = [(row["case"], row["class"], row["outcome"]) for row in table(tmp_path, "scores_lesions")]
    assert ("case_00001", "tumor", "missed") in told
    assert "3 cases scored, 0 could not be" in capsys.readouterr().out


def test_a_class_that_one_case_lacks_is_scored_there_as_two_empty_masks(tmp_path):
    kits(tmp_path, {0: label_of(), 1: NO_TUMOR})
    save(tmp_path / "raw/case_00001/segmentation.nii.gz", NO_TUMOR, KITS)
    assert run(tmp_path) == 0
    row = content(tmp_path)["rows"][3]
    assert (row["case"], row["class"], row["dice"], row["empty"], row["hd95_mm"]) == (
        "case_00001",
        "tumor",
        1,
        "both",
        None,
    )
    assert content(tmp_path)["summary"]["tumor"]["cases_without"] == 1


@pytest.mark.parametrize(
    ("prediction", "label"),
    [
        ("case_00007.nii.gz", "case_00007/segmentation.nii.gz"),
        ("prediction_00007.nii.gz", "case_00007/segmentation.nii"),
        ("case_00007/prediction.nii.gz", "data/case_00007/aggregated_MAJ_seg.nii.gz"),
        ("test-segmentation-7.nii", "Training_Batch1/segmentation-7.nii"),
        ("volume-7.nii.gz", "segmentation-7.nii"),
        ("patient007_frame01.nii.gz", "patient007/patient007_frame01_gt.nii.gz"),
        ("hippocampus_007.nii.gz", "labelsTr/hippocampus_007.nii.gz"),
        ("fold_0/BRATS_007.nii.gz", "BRATS_007.nii.gz"),
    ],
)
def test_files_are_matched_by_case(tmp_path, prediction, label):
    ours = save(tmp_path / "predictions" / prediction, label_of(), LITS)
    theirs = save(tmp_path / "raw" / label, label_of(), LITS)
    images = [
        "case_00007/imaging.nii.gz",
        "Training_Batch1/volume-7.nii",
        "patient007/patient007_frame01.nii.gz",
        "imagesTr/hippocampus_007.nii.gz",
    ]
    for image in images:
        if image.split("/")[0].replace("images", "labels") in label:
            save(tmp_path / "raw" / image, label_of(), LITS)
    (pair,), findings, unmatched = find_pairs(tmp_path / "predictions", tmp_path / "raw")
    assert (pair.prediction, pair.label) == (ours, theirs)
    assert (findings, unmatched) == ([], {"predictions": [], "labels": []})
    assert pair.spacing == pytest.approx((2.5, 0.8, 0.8))
    assert pair.patient == ("patient007" if "patient" in label else case_name(theirs))


def test_two_files_need_no_common_name(tmp_path):
    ours, theirs = save(tmp_path / "a.nii", label_of(), LITS), save(tmp_path / "b.nii.gz", label_of(), LITS)
    (pair,), _, _ = find_pairs(ours, theirs)
    assert (pair.case, pair.prediction) == ("b", ours)


def damaged(path):
    path.write_bytes(path.read_bytes()[:-20])


def moved(path):
    affine = KITS.copy()
    affine[0, 3] += 3.0
    save(path, label_of(), affine)


def singular(path):
    header = bytearray(gzip.decompress(path.read_bytes()))
    header[280:328] = bytes(48)  # the rows of the sform
    path.write_bytes(gzip.compress(bytes(header)))


BAD = {
    "shape": (lambda path: save(path, label_of((6, 10, 11)), KITS), r"shape \(6, 10, 11\) differs from \(6, 10, 12\)"),
    "affine": (moved, r"affine differs .* \(up to 3.75 voxels apart\)"),
    "flipped": (lambda path: save(path, label_of(), KITS @ np.diag([1, -1, 1, 1])), "affine differs"),
    "singular": (singular, "affine is singular"),
    "truncated": (damaged, "truncated or damaged"),
    "text": (lambda path: path.write_text("labels" * 100), "not a single-file NIfTI"),
    "probabilities": (lambda path: save(path, label_of() * 0.3, KITS, np.float32), "not whole numbers, such as 0.3"),
    "NaN": (lambda path: save(path, np.full((6, 10, 12), np.nan), KITS, np.float32), "NaN"),
    "4D": (lambda path: save(path, np.stack([label_of()] * 2, -1), KITS), "in three dimensions"),
    "label": (lambda path: singular(path.parents[1] / "raw/case_00001/segmentation.nii.gz"), "affine is singular"),
    "twice": (lambda path: save(path.with_name("prediction_00001.nii.gz"), label_of(), KITS), "keep one of them"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_case_is_told_in_one_line_and_the_rest_finish(tmp_path, capsys, kind):
    kits(tmp_path, {0: label_of(), 1: label_of(), 2: NO_TUMOR})
    change, message = BAD[kind]
    change(tmp_path / "predictions/case_00001.nii.gz")
    assert run(tmp_path) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "00001" in line
    assert re.search(message, line)
    assert {row["case"] for row in content(tmp_path)["rows"]} == {"case_00000", "case_00002"}
    assert content(tmp_path)["not_scored"] == [line]


def test_files_without_a_partner_are_named_and_do_not_count(tmp_path, capsys):
    kits(tmp_path, {0: label_of(), 1: label_of()})
    (tmp_path / "predictions/case_00001.nii.gz").rename(tmp_path / "predictions/case_00009.nii.gz")
    assert run(tmp_path) == 0
    out = capsys.readouterr().out
    assert "not scored: 1 labels without prediction (case_00001)" in out
    assert "not scored: 1 predictions without label (case_00009)" in out
    assert content(tmp_path)["cases"] == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--tolerance_mm", "-1"], "--tolerance_mm -1.0"),
        (["--lesion_iou", "2"], "lesion IoU 2.0"),
        (["--class_names", "a", "a"], "a name of its own"),
        (["--labels", "/nowhere"], "/nowhere: no such file or folder"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(tmp_path, capsys, flags, message):
    kits(tmp_path, {0: label_of()})
    assert run(tmp_path, *flags) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "scores.json").exists()


def test_nothing_in_common_is_refused(tmp_path, capsys):
    kits(tmp_path, {0: label_of()})
    (tmp_path / "predictions/case_00000.nii.gz").rename(tmp_path / "predictions/other.nii.gz")
    assert run(tmp_path) == 2
    assert "no case of" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [[], ["--labels", "x"], ["--checkpoint", "x"], ["--split", "val"]])
def test_half_a_question_is_a_usage_error(flags):
    with pytest.raises(SystemExit) as error:
        main(flags)
    assert error.value.code == 2


def test_official_classes_and_numbers(tmp_path, capsys):
    kits(tmp_path, {0: label_of(), 1: NO_TUMOR})
    assert run(tmp_path, "--official", "kits23") == 0
    found = content(tmp_path)["official"]
    assert found["scores"]["dice/kidney_and_mass"] == 1
    assert found["scores"]["dice/tumor"] == found["scores"]["surface_dice/tumor"] == 0.5
    assert found["scores"]["dice"] == pytest.approx(2 / 3)
    assert {row["tolerance_mm"] for row in content(tmp_path)["rows"] if row["class"] == "mass"} == {1.1328796488598762}
    assert "0.666667" in capsys.readouterr().out


MOVED = np.eye(4)
MOVED[:3, 3] = 1.0


@pytest.mark.parametrize(("affine", "told"), [(np.eye(4), True), (LITS, False), (MOVED, False)])
def test_a_lost_spacing_is_told(tmp_path, capsys, affine, told):
    for folder, name in (("predictions", "volume-28.nii"), ("raw", "segmentation-28.nii")):
        save(tmp_path / folder / name, label_of(), affine)
    assert run(tmp_path, "--official", "lits") == 0
    assert ("their mm are voxels" in capsys.readouterr().out) == told
    assert all(row["spacing_lost"] == told for row in content(tmp_path)["rows"])
    assert table(tmp_path)[0]["spacing_lost"] == str(told)


def test_names_come_from_the_layout_the_dataset_or_the_flags(tmp_path):
    for folder in ("predictions", "raw/labelsTr"):
        save(tmp_path / folder / "a_001.nii.gz", label_of(), LITS)

    def names(*flags):
        assert run(tmp_path, *flags) == 0
        return [row["class"] for row in content(tmp_path)["rows"]]

    assert names() == ["label 1", "label 2"]
    (tmp_path / "raw/dataset.json").write_text(json.dumps({"labels": {"0": "background", "1": "organ", "2": "lesion"}}))
    assert names() == ["organ", "lesion"]
    (tmp_path / "raw/dataset.json").write_text(json.dumps({"labels": {"background": 0, "gland": 1, "node": 2}}))
    assert names() == ["gland", "node"]
    assert names("--class_names", "whole") == ["whole"]
    assert content(tmp_path)["notes"] == ["label value 2, in 1 cases, belongs to no class that is scored"]


def test_worker_processes_change_nothing(tmp_path):
    kits(tmp_path, {0: label_of(), 1: NO_TUMOR, 2: label_of(), 3: NO_TUMOR})
    assert run(tmp_path) == 0
    alone = content(tmp_path)
    assert run(tmp_path, "--jobs", "2") == 0
    assert content(tmp_path) == alone


class Deadly:
    """What ends the process that unpickles it, as running out of memory does."""

    def __reduce__(self):
        return os._exit, (1,)


def test_a_killed_worker_costs_one_case():
    volumes = {"a": label_of(), "deadly": Deadly(), "b": label_of(), "c": label_of()}
    cases = [
        Volumes(name, name, volume, label_of(), frozenset({1, 2}), (1.0,) * 3, False)
        for name, volume in volumes.items()
    ]
    outcomes = list(score_cases(cases, Classes(None, {}, 1.0, LesionRule()), workers=2))
    assert [outcome.case for outcome in outcomes] == ["a", "deadly", "b", "c"]
    assert [outcome.problem is None for outcome in outcomes] == [True, False, True, True]
    assert "worker was killed" in outcomes[1].problem


def test_few_cases_are_in_memory_at_a_time(monkeypatch):
    drawn, finished = [], []

    class Pool:
        def submit(self, work, job):
            return job

        def shutdown(self, **_):
            pass

    def cases():
        for number in range(10):
            drawn.append(number)
            yield Volumes(str(number), "p", NO_TUMOR, NO_TUMOR, frozenset({1}), (1.0,) * 3, False)

    monkeypatch.setattr(case_scoring, "_pool", lambda workers: Pool())
    monkeypatch.setattr(case_scoring, "_result", lambda job, future: job.case.case)
    for outcome in score_cases(cases(), Classes(None, {}, 1.0, LesionRule()), workers=3):
        finished.append(outcome)
        assert len(drawn) - len(finished) <= 3
    assert finished == [str(number) for number in range(10)]


# ---- a checkpoint against a split


@pytest.fixture
def kits_run(slice_store, tmp_path):
    """An untrained network's checkpoint on the slice store, whose geometry is that of KiTS files."""
    for case in (case for cases in SPLIT.values() for case in cases):
        geometry = {"affine": KITS.tolist(), "spacing": [2.5, 0.8, 0.7], "axes": [0, 1, 2]}
        (slice_store / case / "geometry.json").write_text(json.dumps(geometry))
    torch.manual_seed(0)
    section = {"name": "enet", "in_channels": 1, "num_classes": 3}
    network = NETWORKS["enet"](in_channels=1, num_classes=3)
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
    assert found["rows"][0]["target_ml"] == pytest.approx(rows[0]["target_voxels"] * 2.5 * 0.8 * 0.7 / 1000)
    assert (found["evaluated"]["split"], found["evaluated"]["split_sha256"]) == ("test", SHA256)


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
    content["preprocessing"] = {"image_size": 224, "class_names": ["a", "b"]}
    checkpoints.save(content, kits_run / "best.ckpt")
    assert scored(kits_run)[0] == 2
    assert "classifies images" in capsys.readouterr().err


# ---- two results compared


def rows(dice, patients=None, **others):
    """Rows of one class with this Dice in case 0, 1, ..."""
    names = patients or [f"case_{number}" for number in range(len(dice))]
    return [
        {"case": f"case_{number}", "patient": names[number], "class": "tumor", "dice": value, "target_voxels": 5}
        | {name: values[number] for name, values in others.items()}
        for number, value in enumerate(dice)
    ]


def verdict(ours, theirs, **others):
    (line,) = compare(rows(ours), rows(theirs), ["dice"], **others)
    return line


def test_a_gain_in_every_case_is_found_and_noise_is_not():
    generator = np.random.default_rng(0)
    plain = generator.random(20)
    assert (
        verdict(plain + 0.1 + 0.01 * generator.random(20), plain, names=("ours", "theirs"))["verdict"]
        == "ours is better"
    )
    assert verdict(plain, plain + 0.1 + 0.01 * generator.random(20))["verdict"] == "A is worse"
    noise = generator.normal(0, 0.1, 20)
    assert verdict(plain + noise - noise.mean(), plain)["verdict"] == "no measurable difference"
    assert verdict(plain, plain)["verdict"].startswith("no measurable difference")


@pytest.mark.parametrize(("cases", "claimed"), [(ENOUGH - 1, False), (ENOUGH, True)])
def test_no_claim_from_fewer_than_six_cases(cases, claimed):
    line = verdict(np.linspace(0.5, 0.6, cases) + np.linspace(0.1, 0.2, cases), np.linspace(0.5, 0.6, cases))
    assert line["low"] > 0
    assert ("A is better" in line["verdict"]) == claimed


def test_lower_distances_are_better():
    distance = np.linspace(1.0, 2.0, 10)
    (line,) = compare(rows(distance, hd95_mm=distance), rows(distance, hd95_mm=distance + distance**2), ["hd95_mm"])
    assert (line["difference"] < 0, line["verdict"]) == (True, "A is better")


def test_p_value_effect_and_counts():
    ours = np.array([0.9, 0.8, 0.7, 0.2, 0.5, 0.61, 0.55, 0.3])
    theirs = np.array([0.5, 0.7, 0.75, 0.0, 0.5, 0.6, 0.5, 0.0])
    line = verdict(ours, theirs)
    changed = (ours - theirs)[ours != theirs]
    assert line["p"] == pytest.approx(wilcoxon(changed).pvalue)
    assert (line["higher"], line["lower"], line["patients_that_differ"]) == (6, 1, 7)
    # |differences| .4 .1 .05 .2 .01 .05 .3; ranks 7 4 2.5 5 1 2.5 6 (28): only -.05 is against, (28 - 2 * 2.5) / 28
    assert line["effect"] == pytest.approx((28 - 2 * 2.5) / 28, abs=0.04)


def test_pairs_without_a_distance_are_left_out_and_counted():
    values = [1.0, None, 3.0]
    (line,) = compare(rows([1, 1, 1], hd95_mm=values), rows([1, 1, 1], hd95_mm=[2.0, 2.0, None]), ["hd95_mm"])
    assert (line["cases"], line["left_out"], line["difference"]) == (1, 2, -1)


def test_the_interval_is_that_of_all_resamples():
    # 5 cases: the 3125 resamples are few enough to enumerate
    difference = np.array([0.0, 0.1, 0.3, 0.35, 0.9])
    means = [np.mean(draw) for draw in product(difference, repeat=5)]
    interval = bootstrap(difference, list("abcde"), resamples=50_000)
    assert interval == pytest.approx(tuple(np.quantile(means, (0.025, 0.975))), abs=0.01)


def test_the_interval_is_repeatable_and_covers_as_it_says():
    generator = np.random.default_rng(0)
    draws = generator.normal(0.2, 1, (200, 40))
    names = [str(number) for number in range(40)]
    intervals = [bootstrap(draw, names, resamples=500) for draw in draws]
    assert intervals[0] == bootstrap(draws[0], names, resamples=500)
    assert 0.88 < np.mean([low < 0.2 < high for low, high in intervals]) < 0.98


def test_a_patient_is_drawn_with_all_cases():
    # two patients: a resample holds a twice, both, or b twice, so the mean is 0, 0.5 or 1: the interval spans all of it
    assert bootstrap(np.array([0.0, 0.0, 1.0, 1.0]), ["a", "a", "b", "b"]) == (0.0, 1.0)
    ours = rows(np.linspace(0.6, 0.7, 12), patients=[f"p{number // 4}" for number in range(12)])
    (line,) = compare(ours, rows(np.linspace(0.5, 0.55, 12)), ["dice"])
    assert (line["patients_that_differ"], "too few patients" in line["verdict"]) == (3, True)


def test_holms_correction_by_hand():
    # sorted .01 .02 .03 .5: times 4, 3, 2, 1 is .04 .06 .06 .5, never falling
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert all(one <= other for one, other in combinations(holm([0.01, 0.011, 0.012]), 2))


def test_a_claim_that_does_not_survive_the_correction_says_so():
    generator = np.random.default_rng(1)
    plain = generator.random(8)
    gain = plain + np.linspace(0.01, 0.02, 8)
    alone = compare(rows(gain), rows(plain), ["dice"])
    others = ("voe", "assd_mm", "hd95_mm", "lesion_f1", "abs_rvd", "surface_dice")
    ours, theirs = (rows(dice, **dict.fromkeys(others, plain)) for dice in (gain, plain))
    many = compare(ours, theirs, ["dice", *others])
    assert alone[0]["verdict"] == "A is better"
    assert many[0]["verdict"] == "A is better, if this line is taken alone (not as one of 7)"


def test_other_cases_or_labels_are_not_compared():
    with pytest.raises(ValueError, match="not scored on the same cases"):
        compare(rows([0.1, 0.2]), rows([0.1]), ["dice"])
    other = rows([0.1])
    other[0]["target_voxels"] = 6
    with pytest.raises(ValueError, match="target of A has 5 voxels, that of B has 6"):
        compare(rows([0.1]), other, ["dice"])


def test_two_files_are_compared_and_other_settings_refused(tmp_path, capsys):
    kits(tmp_path, dict.fromkeys(range(7), label_of()))
    worse = kits(tmp_path / "worse", dict.fromkeys(range(7), NO_TUMOR))
    assert (run(tmp_path), run(worse)) == (0, 0)
    capsys.readouterr()
    files = [f"{tmp_path}/scores.json", f"{worse}/scores.json"]
    assert main(["--compare", *files, "--scores", "dice", "hd95_mm", "--output", str(tmp_path / "compared")]) == 0
    lines = {tuple(line.split()[:2]): line for line in capsys.readouterr().out.splitlines() if line}
    assert lines["tumor", "dice"].endswith("A is better")
    assert "+1.000 [+1.000, +1.000]" in lines["tumor", "dice"]
    assert "no measurable difference" in lines["kidney", "dice"] or "better" in lines["kidney", "dice"]
    assert ("tumor", "hd95_mm") not in lines
    assert [row["verdict"] for row in table(tmp_path, "compared") if row["class"] == "tumor"] == ["A is better"]
    assert run(worse, "--tolerance_mm", "2") == 0
    assert main(["--compare", *files]) == 2
    assert "other settings" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"rows": []}', '{"rows": [{"probability": 1}]}'])
def test_other_files_are_not_compared(tmp_path, capsys, text):
    (tmp_path / "a.json").write_text(text)
    assert main(["--compare", f"{tmp_path}/a.json", f"{tmp_path}/a.json"]) == 2
    assert "holds no scores" in capsys.readouterr().err
