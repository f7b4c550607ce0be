"""scripts/evaluate.py on label files, and on two of its results: what it reads, writes and refuses."""

import csv
import gzip
import json
import re

import numpy as np
import pytest

from scripts.evaluate import main
from tests.raw_cases import KITS, LITS, label_of, save
from utils.evaluation.volumes.scores import EMPTY_MASK_RULES

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
    return main([*arguments, "--overwrite", "--jobs", "1", *flags])


def content(root):
    return json.loads((root / "scores.json").read_text())


def table(root, name="scores"):
    with (root / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


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


def test_a_prediction_without_label_is_a_problem_and_a_label_without_prediction_a_note(tmp_path, capsys):
    kits(tmp_path, {0: label_of(), 1: label_of()})
    (tmp_path / "predictions/case_00001.nii.gz").rename(tmp_path / "predictions/case_00009.nii.gz")
    assert run(tmp_path) == 1
    out, err = capsys.readouterr()
    assert "not scored: 1 labels without prediction (case_00001)" in out
    assert "case_00009.nii.gz: no label of case case_00009 in" in err
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
    assert lines["kidney", "dice"].endswith("A is better")  # the missed tumor is kidney in B
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
