"""Which files evaluate.py scores in folders as people have them, what it says of the others, and in which mm."""

import json
import os
from pathlib import Path

import nibabel
import numpy as np
import pytest
from raw_cases import LITS, label_of, save

from scripts.evaluate import main
from utils.evaluation.volumes.pairs import find_pairs


def run(root: Path, *flags: str) -> int:
    folders = ["--predictions", f"{root}/predictions", "--labels", f"{root}/labels"]
    return main([*folders, "--output", f"{root}/scores", "--overwrite", "--jobs", "1", *flags])


def scores(root: Path) -> dict:
    return json.loads((root / "scores.json").read_text())


def both(root: Path, name: str, prediction: np.ndarray | None = None) -> None:
    save(root / "labels" / name, label_of(), LITS)
    save(root / "predictions" / name, label_of() if prediction is None else prediction, LITS)


def test_a_case_whose_number_is_0000_is_scored(tmp_path):
    for number in range(4):
        wrong = np.roll(np.minimum(label_of(), 1), 6, 1)
        both(tmp_path, f"case_{number:04d}.nii.gz", wrong if number == 0 else None)
    assert run(tmp_path, "--class_names", "organ") == 0
    assert scores(tmp_path)["cases"] == 4
    assert scores(tmp_path)["summary"]["organ"]["dice"] == 0.75


def test_images_and_probabilities_beside_their_label_are_passed_over_with_a_line(tmp_path):
    both(tmp_path, "a.nii.gz")
    both(tmp_path, "b_0000.nii.gz")  # a case of its own: there is no b
    for name in ("labels/a_0000.nii.gz", "labels/a_0001.nii.gz", "predictions/a_probabilities.nii.gz"):
        save(tmp_path / name, label_of(), LITS)
    (tmp_path / "predictions/predictions.json").write_text("{}")
    found = find_pairs(tmp_path / "predictions", tmp_path / "labels")
    assert [pair.case for pair in found.pairs] == ["a", "b_0000"] and found.findings == []
    assert found.notes == [
        f"{tmp_path}/predictions: passed over: 1 by ending (1 .json), 1 by name of an image or of probabilities "
        "(a_probabilities.nii.gz)",
        f"{tmp_path}/labels: passed over: 2 by name of an image or of probabilities (such as a_0000.nii.gz)",
    ]


def test_predictions_named_as_the_images_of_nnunet_belong_to_its_labels(tmp_path):
    save(tmp_path / "labels/a.nii.gz", label_of(), LITS)
    save(tmp_path / "predictions/a_0000.nii.gz", label_of(), LITS)
    assert [pair.case for pair in find_pairs(tmp_path / "predictions", tmp_path / "labels").pairs] == ["a"]


def test_endings_in_capitals_count_and_hidden_files_are_not_cases(tmp_path):
    for place in ("labels", "predictions"):
        for name, ending in (("plain.nii.gz", "A.NII.GZ"), ("plain.nii", "b.Nii")):
            save(tmp_path / place / name, label_of(), LITS).rename(tmp_path / place / ending)
        (tmp_path / place / "._A.nii.gz").write_bytes(b"a Mac's")
    assert run(tmp_path) == 0
    assert [row["case"] for row in scores(tmp_path)["rows"]] == ["A", "A", "b", "b"]
    assert sum("1 by hidden name" in note for note in scores(tmp_path)["notes"]) == 2


def test_equal_names_in_folders_named_alike_are_different_cases(tmp_path):
    for site in ("north", "south"):
        save(tmp_path / f"labels/{site}/case_00001/segmentation.nii.gz", label_of(), LITS)
        save(tmp_path / f"predictions/{site}/case_00001.nii.gz", label_of(), LITS)
    found = find_pairs(tmp_path / "predictions", tmp_path / "labels")
    assert [(pair.case, pair.label.parts[-3]) for pair in found.pairs] == [
        ("north/case_00001", "north"),
        ("south/case_00001", "south"),
    ]
    assert found.findings == []


def test_two_predictions_of_one_label_are_refused_and_named(tmp_path):
    both(tmp_path, "a.nii.gz")
    both(tmp_path, "b.nii.gz")
    save(tmp_path / "predictions/fold_1/a.nii.gz", label_of(), LITS)
    found = find_pairs(tmp_path / "predictions", tmp_path / "labels")
    assert [pair.case for pair in found.pairs] == ["b"]
    assert "keep one of them" in str(found.findings[0])


def test_a_dead_link_is_a_finding_and_the_rest_is_scored(tmp_path, capsys):
    both(tmp_path, "a.nii.gz")
    both(tmp_path, "b.nii.gz")
    (tmp_path / "labels/b.nii.gz").unlink()
    (tmp_path / "labels/b.nii.gz").symlink_to("../.git/annex/objects/b")
    assert run(tmp_path) == 1
    err = capsys.readouterr().err
    assert "labels/b.nii.gz: is a link to ../.git/annex/objects/b, which is not there" in err
    assert scores(tmp_path)["cases"] == 1


def test_links_to_images_that_were_not_fetched_are_passed_over(tmp_path):
    save(tmp_path / "labels/case_00000/segmentation.nii.gz", label_of(), LITS)
    save(tmp_path / "labels/segmentation-7.nii", label_of(), LITS)
    for name in ("case_00000/imaging.nii.gz", "volume-7.nii", "README.md"):
        (tmp_path / "labels" / name).symlink_to("nowhere")
    for name in ("case_00000.nii.gz", "volume-7.nii"):
        save(tmp_path / "predictions" / name, label_of(), LITS)
    found = find_pairs(tmp_path / "predictions", tmp_path / "labels")
    assert len(found.pairs) == 2 and found.findings == []
    assert "1 by ending (1 .md), 2 by name of an image" in found.notes[0]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_a_closed_folder_is_a_finding_and_the_rest_is_scored(tmp_path, capsys):
    both(tmp_path, "a.nii.gz")
    (tmp_path / "labels/closed").mkdir(mode=0)
    assert run(tmp_path) == 1
    assert "labels/closed: cannot be read (Permission denied)" in capsys.readouterr().err


def pixdim_one(path: Path, volume: np.ndarray) -> None:
    """The affine says 0.8 x 0.8 x 2.5 mm, pixdim 1 x 1 x 1."""
    image = nibabel.Nifti1Image(volume, LITS)
    image.set_sform(LITS, 1)
    image.set_qform(np.eye(4), 0)
    data = bytearray(image.to_bytes())
    data[76:92] = np.ones(4, "<f4").tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def test_millimeters_are_those_of_the_affine_and_the_contradiction_is_noted(tmp_path):
    label = np.zeros((20, 24, 8), np.uint8)
    label[4:12, 4:12, 2:6] = 1
    pixdim_one(tmp_path / "labels/a.nii", label)
    pixdim_one(tmp_path / "predictions/a.nii", np.roll(label, 1, 2))
    assert run(tmp_path) == 0
    (row,) = scores(tmp_path)["rows"]
    # 8 x 8 x 4 voxels of 1.6 mm3, moved by one slice. Of 184 edge voxels the 64 of the outer slice are 2.5 mm away, and
    # the 36 within the rim of the first are 0.8 (20), 1.6 (12) and 2.4 mm (4) from the other's rim: 204.8 / 184 = 1.113
    assert row["target_ml"] == pytest.approx(0.4096)
    assert row["hd95_mm"] == 2.5
    assert row["assd_mm"] == pytest.approx(1.113, abs=5e-4)
    assert row["surface_dice"] == pytest.approx(0.747, abs=5e-4)
    (note,) = scores(tmp_path)["notes"]
    assert "pixdim 1 x 1 x 1 contradicts the affine; the affine counts: 0.8 x 0.8 x 2.5 mm" in note
    assert note.endswith("(2 files)")


def test_milliliters_of_a_sheared_affine_are_by_its_determinant(tmp_path):
    sheared = LITS.copy()
    sheared[0, 2] = 1.5
    for place in ("labels", "predictions"):
        image = nibabel.Nifti1Image(np.minimum(label_of(), 1), sheared)
        image.set_qform(None, 0)
        (tmp_path / place).mkdir()
        nibabel.save(image, tmp_path / place / "a.nii.gz")
    assert run(tmp_path) == 0
    # 3 x 16 voxels of 0.8 x 0.8 x 2.5 mm, however far the slices lean
    assert scores(tmp_path)["rows"][0]["target_ml"] == pytest.approx(48 * 1.6 / 1000)
    assert "affine is sheared" in scores(tmp_path)["notes"][0]


def test_an_oblique_affine_of_one_millimeter_gives_whole_millimeters(tmp_path):
    turned = nibabel.affines.from_matvec(nibabel.eulerangles.euler2mat(0.3, 0.2, 0.1))
    save(tmp_path / "labels/a.nii", np.minimum(label_of(), 1), turned)
    save(tmp_path / "predictions/a.nii", np.roll(np.minimum(label_of(), 1), 1, 0), turned)
    assert run(tmp_path) == 0
    (row,) = scores(tmp_path)["rows"]
    assert (row["surface_dice"], row["hd95_mm"]) == (1.0, 1.0)  # float32 says 1.00000003 mm, beyond the tolerance


def test_a_name_that_is_not_utf8_is_scored_and_printed(tmp_path, capsys):
    root = Path(os.fsdecode(os.fsencode(tmp_path) + b"/M\xfcnchen"))
    both(root, "a.nii.gz")
    save(root / "predictions/b.nii.gz", label_of(), LITS)
    assert run(root) == 1
    assert "no label of case b" in capsys.readouterr().err
    assert (root / "scores.csv").is_file()
