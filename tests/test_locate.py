"""A locator: its box, its margin, predict.py --locate, and what evaluate.py counts outside the box."""

import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest

from datasets.slices.boxes import at_least, beyond_mm, box_of, deeper, grown
from datasets.slices.dataset import SliceDataset
from datasets.slices.resampling import Grid
from scripts.evaluate import main as evaluate
from tests.raw_cases import KITS, kits_case, make, save
from tests.tiny_checkpoints import labels_of, predict, record, thresholds, voxels
from utils.prediction.locating import reach
from utils.runs.locator import box_found
from utils.runs.models import load_model
from utils.training import checkpoints

__all__ = ["thresholds"]  # a fixture
SHAPE = (12, 90, 80)
BODY = slice(4, 9), slice(30, 50), slice(20, 44)  # where the organ is


def test_a_box_holds_what_the_stored_voxels_cover():
    labels = np.zeros((3, 10, 5), np.uint8)
    labels[1, 2:4, 4] = 1
    # slabs of 4 slices, the last of 2; rows of 2.5 and columns of 3 source pixels
    assert box_of(labels, Grid((10, 25, 15), (3, 10, 5), 4)) == (slice(4, 8), slice(5, 10), slice(12, 15))
    labels[2, 9, 0] = 1
    assert box_of(labels, Grid((10, 25, 15), (3, 10, 5), 4)) == (slice(4, 10), slice(5, 25), slice(0, 15))
    assert box_of(np.zeros((3, 10, 5)), Grid((10, 25, 15), (3, 10, 5), 4)) is None


def test_a_box_grows_by_millimeters_and_to_a_size_within_the_volume():
    box = slice(4, 8), slice(5, 10), slice(12, 15)
    assert grown(box, 5.0, (2.0, 5.0, 2.5), (10, 25, 15)) == (slice(1, 10), slice(4, 11), slice(10, 15))
    assert at_least(box, (12, 40), (10, 25, 15)) == (slice(4, 8), slice(1, 13), slice(0, 15))
    assert at_least(box, (5, 3), (10, 25, 15)) == box


def test_a_box_is_deeper_by_the_neighbors_that_a_network_sees(thresholds):
    assert deeper((slice(4, 8), slice(5, 10), slice(0, 3)), 2, (9, 25, 15)) == (slice(2, 9), slice(5, 10), slice(0, 3))
    model = load_model(thresholds)
    for seen, slices in (({}, 0), ({"neighbors": 2}, 2), ({"neighbors": 1, "neighbor_mm": 6.0}, 3)):
        model.preprocessing |= {"neighbors": 0, "neighbor_mm": None} | seen
        assert reach(model, 2.0) == slices
    model.preprocessing |= {"slice_spacing": 4.0, "neighbor_mm": None}
    assert reach(model, 2.0) == 2  # a slab


def test_a_stray_voxel_does_not_open_the_box():
    labels, grid = np.zeros((6, 20, 20), np.uint8), Grid((6, 20, 20), (6, 20, 20))
    labels[2:4, 4:9, 4:9] = 1
    labels[5, 15, 15:17] = 1
    assert box_found(labels, grid)[0] == slice(2, 6)
    labels[5, 15, 15] = 0
    labels[2:5, 4:9, 4:9] = 1
    assert box_found(labels, grid) == (slice(2, 5), slice(4, 9), slice(4, 9))


def test_what_lies_beyond_a_box_is_measured_along_the_axis_that_lacks_most():
    marked = np.zeros((10, 10, 10), bool)
    marked[4, 4, 4] = marked[2, 4, 9] = marked[9, 0, 5] = True
    box = slice(4, 6), slice(1, 8), slice(3, 6)
    assert beyond_mm(marked, box, (1.0, 2.0, 3.0)).tolist() == [12.0, 0.0, 4.0]


def volume(shift: int = 0) -> np.ndarray:
    """Fat with a bright organ, and air at the border."""
    image = np.full(SHAPE, -200, np.int16)
    image[:, 80:] = -1000
    slices, rows, columns = BODY
    image[slices, rows.start + shift : rows.stop + shift, columns] = 100
    return image


@pytest.fixture
def places(tmp_path, thresholds) -> Path:
    """Raw cases, their store at 4 mm, and a run on it as a locator, which finds what is bright."""
    for number in range(3):
        image = volume(2 * number)
        label = labels_of(image)
        if number == 1:  # this val case's organ reaches 10 rows beyond what is bright
            label[6, 22:52, 30] = 1
        kits_case(tmp_path / "raw", number, image=image, label=label)
    split = {"train": ["case_00000"], "val": ["case_00001", "case_00002"], "test": []}
    (tmp_path / "split.json").write_text(json.dumps(split))
    flags = ("--task", "organ", "--spacing", "4", "--slice_spacing", "5", "--split_file", str(tmp_path / "split.json"))
    assert make(tmp_path / "raw", tmp_path / "store", *flags) == 0
    val = SliceDataset(tmp_path / "store", "val", crop=32)
    content = checkpoints.load(thresholds)
    weights = {name: weight[:2] for name, weight in content["weights"].items()}
    content |= {
        "network": content["network"] | {"num_classes": 2},
        "weights": weights,
        "preprocessing": val.preprocessing,
        "split": split | {"sha256": val.split_sha256},
        "recipe": {
            "seed": 0,
            "data": {"name": "slices", "root": str(tmp_path / "store"), "task": "organ", "crop": 32},
            "training": {"accelerator": "cpu", "precision": "32-true", "batch_size": 3, "channels_last": False},
        },
    }
    (tmp_path / "locator").mkdir()
    checkpoints.save(content, tmp_path / "locator" / "best.ckpt")
    return tmp_path


def measure(places: Path) -> dict:
    assert evaluate(["--checkpoint", str(places / "locator"), "--split", "val", "--margin"]) == 0
    return json.loads((places / "locator" / "locator.json").read_text())


def test_the_margin_is_what_the_val_cases_need(places, capsys):
    found = measure(places)
    # 8 rows of 0.8 mm beyond the bright part (2 more are less than 0.1 %), of which up to a stored row of 4 mm is lost;
    # one such row is added
    assert 6.4 + 3.9 <= found["margin_mm"] <= 6.4 + 4 + 4.1 + 1
    assert found["recall"] >= 0.999 > found["recall_without_margin"] > 0.4
    assert (found["cases"], found["without_box"]) == (2, 0) and 0 < found["box_share"] < 0.5
    assert f"margin {found['margin_mm']:g} mm" in capsys.readouterr().out


def located(places: Path, out: str, *flags: object) -> int:
    return predict(places / "thresholds.ckpt", places / "in", places / out, *flags)


@pytest.mark.parametrize("turned", [False, True])
def test_what_is_located_is_labeled_as_without_and_the_box_is_recorded(places, turned):
    """In any order of the file's axes; the box is that of the file."""
    measure(places)
    image, affine = volume(), KITS
    if turned:
        image, affine = image[::-1].transpose(1, 2, 0), KITS @ np.diag([-1, 1, 1, 1])[:, [1, 2, 0, 3]]
    file = save(places / "in" / "a.nii.gz", image, affine)
    assert located(places, "whole") == located(places, "found", "--locate", places / "locator", "--probabilities") == 0
    labels = voxels(places / "found" / "a.nii.gz")
    assert labels.any() and np.array_equal(labels, voxels(places / "whole" / "a.nii.gz"))
    entry = record(places / "found")["a"]
    box = tuple(slice(*ends) for ends in entry["box"])
    outside = np.ones(nibabel.load(file).shape, bool)
    outside[box] = False
    assert outside.any() and not labels[outside].any() and entry["seconds"]["locate"] > 0
    shares = voxels(places / "found" / "a_probabilities.nii.gz")
    assert not shares[outside].any() and shares[box].all()


def test_a_locator_that_finds_nothing_stands_back(places, capsys):
    measure(places)
    save(places / "in" / "a.nii.gz", np.full(SHAPE, -200, np.int16))
    assert located(places, "found", "--locate", places / "locator") == 0
    assert "the locator found nothing: the whole volume is predicted" in capsys.readouterr().out
    assert "box" not in record(places / "found")["a"]


def test_a_locator_needs_millimeters_and_says_what_it_resampled(places, capsys):
    measure(places)
    file = save(places / "in" / "a.nii.gz", volume())
    assert located(places, "found", "--locate", places / "locator") == 0
    said = capsys.readouterr().out
    assert "resampled from 0.80 x 0.80 mm to 4.00 mm in-plane" in said and "another split of the patients" in said
    image = nibabel.Nifti1Image(volume(), np.eye(4))
    image.set_sform(None, 0)
    image.set_qform(None, 0)
    nibabel.save(image, file)
    assert located(places, "other", "--locate", places / "locator") == 1


def test_other_options_are_other_predictions(places, capsys):
    measure(places)
    save(places / "in" / "a.nii.gz", volume())
    assert located(places, "out") == 0
    assert located(places, "out", "--locate", places / "locator") == 1
    assert "made by other options" in capsys.readouterr().err


def test_a_locator_needs_its_own_margin(places, capsys):
    save(places / "in" / "a.nii.gz", volume())
    flags = ("--locate", places / "locator")
    assert located(places, "out", *flags) == 2
    assert "--split val --margin" in capsys.readouterr().err
    measure(places)
    other = checkpoints.load(places / "locator") | {"epoch": 9}
    checkpoints.save(other, places / "locator" / "best.ckpt")
    assert located(places, "out", *flags) == 2
    assert "is of another checkpoint" in capsys.readouterr().err
    (places / "locator" / "locator.json").write_text('{"margin_mm": -1}')
    assert located(places, "out", *flags) == 2
    assert "is damaged" in capsys.readouterr().err
    content = checkpoints.load(places / "locator")
    content["preprocessing"] |= {"modality": "MR", "window": None}
    checkpoints.save(content, places / "locator" / "best.ckpt")
    assert located(places, "out", *flags) == 2
    assert "learned from MR" in capsys.readouterr().err


def test_what_a_locator_missed_is_counted(places, capsys):
    measure(places)
    label = labels_of(volume())
    label[0, 0, :7] = 1  # far from what the locator sees
    label[6, 40, 30] = 2
    for name in "ab":
        save(places / "in" / f"{name}.nii.gz", volume())
        save(places / "labels" / f"{name}.nii.gz", label)
    assert located(places, "out", "--locate", places / "locator") == 0
    flags = ["--predictions", places / "out", "--labels", places / "labels", "--jobs", "1", "--output", places / "s"]
    assert evaluate([str(flag) for flag in flags]) == 0
    voxels_of_class = int((label == 1).sum())
    expected = f"label 1: the locator's boxes leave out 14 of {2 * voxels_of_class} target voxels"
    assert expected in capsys.readouterr().out
    rows = json.loads((places / "s.json").read_text())["rows"]
    assert [row["target_voxels_outside_box"] for row in rows] == [7, 0, 7, 0]
    shutil.rmtree(places / "out")
    assert located(places, "out") == 0
    assert evaluate([*map(str, flags), "--overwrite"]) == 0
    assert "target_voxels_outside_box" not in json.loads((places / "s.json").read_text())["rows"][0]


def test_a_margin_is_of_the_val_split(places, capsys):
    with pytest.raises(SystemExit):
        evaluate(["--checkpoint", str(places / "locator"), "--split", "test", "--margin"])
    assert "--split val" in capsys.readouterr().err
