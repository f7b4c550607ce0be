"""scripts/TeachWith.py --maps: files of other programs find their case, their classes and their place in the store."""

import json
import pickle

import nibabel
import numpy as np
import pytest
import SimpleITK

from datasets.slices.resampling import grid_of, resampled
from datasets.slices.soft_codes import decode
from datasets.slices.soft_maps import read_maps
from datasets.slices.store import read_index, read_slice
from datasets.volumes.geometry import to_slices
from tests.raw_cases import KITS, hounsfield, kits_case, label_of, make, save
from tests.teachers import teach
from utils.teaching.grids import slices_affine

SHAPE = (8, 12, 14)  # of the files: slices, rows, columns
CASES = [f"case_{number:05d}" for number in range(3)]
NAMES = ("--classes", "kidney", "tumor")


@pytest.fixture
def raw(tmp_path):
    for number in range(3):
        kits_case(tmp_path / "raw", number, image=hounsfield(number, SHAPE), label=label_of(SHAPE))
    return tmp_path / "raw"


@pytest.fixture
def store(raw, tmp_path, capsys):
    assert make(raw, tmp_path / "store") == 0
    capsys.readouterr()
    return tmp_path / "store"


def geometry_of(store, case):
    return json.loads((store / case / "geometry.json").read_text())


def chances(classes=3, shape=SHAPE, seed=0):
    """Probabilities (classes, *shape) that sum up to 1."""
    powers = np.exp(2 * np.random.default_rng(seed).normal(size=(classes, *shape)))
    return (powers / powers.sum(0)).astype(np.float32)


def answered(store, left, maps, *flags, splits=("train", "val", "test")):
    return teach(store, maps, "--maps", left, "--splits", *splits, *flags)


def turned(maps, geometry):
    """Maps (K, i, j, k) on a source as (S, K, H, W)."""
    return np.stack([to_slices(each, geometry["axes"], geometry["flips"]) for each in maps], 1)


def close(store, maps, case, expected):
    return np.abs(decode(read_maps(maps).slices(case)) - expected).max() < 1 / 255


def ball(affine, shape, center, radius):
    """1 within a ball of mm, 0 outside, a smooth edge of 4 mm between: (i, j, k)."""
    places = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1) @ affine[:3, :3].T + affine[:3, 3]
    return 1 / (1 + np.exp(np.linalg.norm(places - center, axis=-1) - radius))


def test_labels_in_any_orientation_lie_on_the_slices(store, left, tmp_path, capsys):
    image = nibabel.Nifti1Image(label_of(SHAPE), KITS)
    for case, codes in zip(CASES, ("RAS", "LPI", None), strict=True):
        ornt = codes and nibabel.orientations.ornt_transform(
            nibabel.io_orientation(KITS), nibabel.orientations.axcodes2ornt(codes)
        )
        nibabel.save(image if codes is None else image.as_reoriented(ornt), left / f"{case}.nii.gz")
    (left / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "kidney": 1, "tumor": 2}}))
    assert answered(store, left, tmp_path / "maps", "--license", "CC0") == 0
    assert "whom it has learned from is not known" in capsys.readouterr().out
    maps = read_maps(tmp_path / "maps")
    assert maps.classes == ("kidney", "tumor") and maps.patients == {"0": None} and maps.license == "CC0"
    for record in read_index(store):
        _, label = read_slice(record.path)
        found = decode(maps.slices(record.case)[record.slice])
        assert np.array_equal(found, np.stack([label == 1, label == 2]))


def test_what_nnunet_saves_lies_where_its_properties_say(store, raw, left, tmp_path):
    """Its axes are z, y, x of the image as SimpleITK reads it."""
    for case in CASES[:2]:
        image = SimpleITK.ReadImage(str(raw / case / "imaging.nii.gz"))
        probabilities = chances(shape=SimpleITK.GetArrayFromImage(image).shape)
        np.savez_compressed(left / f"{case}.npz", probabilities=probabilities)
        known = {"spacing": image.GetSpacing(), "origin": image.GetOrigin(), "direction": image.GetDirection()}
        if case == CASES[1]:  # of another of its readers
            known = {"nibabel_stuff": {"original_affine": np.eye(4), "reoriented_affine": KITS}}
        else:
            known = {"sitk_stuff": known, "bbox_used_for_cropping": [[0, 8]] * 3, "spacing": list(np.float64([1, 2]))}
        (left / f"{case}.pkl").write_bytes(pickle.dumps(known))
        save(left / f"{case}.nii.gz", label_of(SHAPE))  # less is known by it
    assert answered(store, left, tmp_path / "maps", *NAMES) == 0
    for case in CASES[:2]:
        assert close(
            store, tmp_path / "maps", case, turned(probabilities[1:].transpose(0, 3, 2, 1), geometry_of(store, case))
        )


def test_a_pickle_that_would_run_something_is_not_read(store, left, tmp_path, capsys):
    class Runs:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").write_text, ("",))

    np.savez(left / f"{CASES[0]}.npz", probabilities=chances())
    (left / f"{CASES[0]}.pkl").write_bytes(pickle.dumps({"sitk_stuff": Runs()}))
    assert answered(store, left, tmp_path / "maps", *NAMES) == 1
    assert "cannot be read (it names" in capsys.readouterr().out and not (tmp_path / "ran").exists()
    (left / f"{CASES[0]}.pkl").unlink()
    assert answered(store, left, tmp_path / "maps", *NAMES) == 1
    assert "is missing: nnU-Net writes it beside the npz" in capsys.readouterr().out


@pytest.mark.parametrize("asked", [(), ("--spacing", "1.6", "--slice_spacing", "5")])
def test_probabilities_on_another_grid_are_taken_to_the_store_in_mm(raw, left, tmp_path, asked):
    """A ball of 9 mm on voxels of 1.5 mm in another orientation, larger than the scan on one side."""
    shape = (24, 40, 44)
    for number in range(3):
        kits_case(tmp_path / "large", number, image=hounsfield(number, shape), label=label_of(shape))
    store, maps = tmp_path / "store", tmp_path / "maps"
    assert make(tmp_path / "large", store, *asked) == 0
    affine = np.array([[0, 1.5, 0, -12], [-1.5, 0, 0, 38], [0, 0, 1.5, -42], [0, 0, 0, 1]], float)
    center, radius = np.array([23.0, 14.0, -10.0]), 9
    theirs = ball(affine, (40, 44, 48), center, radius)
    save(left / f"{CASES[0]}_probabilities.nii.gz", theirs[..., None], affine, np.float32)
    (left / "predictions.json").write_text(json.dumps({"cases": {CASES[0]: {"classes": {"1": "kidney"}}}}))
    assert answered(store, left, maps) == 0
    geometry = geometry_of(store, CASES[0])
    expected = ball(slices_affine(geometry), shape, center, radius).astype(np.float32)
    assert expected.max() > 0.99
    expected = np.stack(list(resampled(list(expected), grid_of(geometry))))[:, None]
    found = decode(read_maps(maps).slices(CASES[0]))
    assert np.abs(found - expected).max() < 0.06 and found.sum() == pytest.approx(expected.sum(), rel=0.01)


def test_four_dimensions_have_a_class_each_with_background_or_without(store, left, tmp_path, capsys):
    probabilities = chances()
    save(left / f"{CASES[0]}.nii.gz", np.moveaxis(probabilities, 0, -1))
    save(left / f"{CASES[1]}.nii.gz", np.moveaxis(probabilities[1:], 0, -1))
    save(left / f"{CASES[2]}.nii.gz", np.moveaxis(chances(5), 0, -1))
    assert answered(store, left, tmp_path / "maps", *NAMES, "--only", "tumor") == 1
    assert "has 5 volumes of probabilities, and 2 classes are named" in capsys.readouterr().out
    for case in CASES[:2]:
        assert close(store, tmp_path / "maps", case, turned(probabilities[2:], geometry_of(store, case)))


def test_a_folder_of_masks_has_a_file_for_each_class(store, left, tmp_path, capsys):
    """As TotalSegmentator writes them: turned as it likes, the same classes for every case, of which some are empty."""
    label = label_of(SHAPE)
    turn = nibabel.orientations.ornt_transform(nibabel.io_orientation(KITS), nibabel.orientations.axcodes2ornt("RAS"))
    for case in CASES:
        for name, mask in (("tumor", label == 2), ("spleen", label == 5), ("kidney", 255 * (label == 1))):
            mask = nibabel.Nifti1Image(mask.astype(np.uint8), KITS).as_reoriented(turn)
            (left / case).mkdir(exist_ok=True)
            nibabel.save(mask, left / case / f"{name}.nii.gz")
    save(left / CASES[2] / "imaging.nii.gz", hounsfield(2, SHAPE))
    assert answered(store, left, tmp_path / "maps") == 0
    assert f"1 files belong to no case that is asked for: {CASES[2]}/imaging.nii.gz" in capsys.readouterr().out
    assert read_maps(tmp_path / "maps").classes == ("kidney", "spleen", "tumor")
    assert answered(store, left, tmp_path / "few", "--only", "tumor", "kidney") == 0
    maps = read_maps(tmp_path / "few")
    assert maps.classes == ("kidney", "tumor")
    for record in read_index(store):
        _, label = read_slice(record.path)
        assert np.array_equal(decode(maps.slices(record.case)[record.slice]), np.stack([label == 1, label == 2]))


def test_masks_that_overlap_are_missing_or_lie_elsewhere_are_one_line_each(store, left, tmp_path, capsys):
    masks = {"kidney": label_of(SHAPE) > 0, "tumor": label_of(SHAPE) == 2}
    for case in CASES:
        for name, mask in masks.items():
            save(left / case / f"{name}.nii.gz", mask.astype(np.uint8))
    save(
        left / CASES[1] / "tumor.nii.gz", masks["tumor"].astype(np.uint8), KITS + np.eye(4)[[0, 1, 3, 2]] * [0, 0, 0, 9]
    )
    (left / CASES[2] / "tumor.nii.gz").unlink()
    assert answered(store, left, tmp_path / "maps") == 1
    lines = capsys.readouterr().out.splitlines()
    said = (
        "overlaps with kidney.nii.gz in 4 voxels: keep one",
        "lies on another grid than kidney",
        "has no tumor.nii.gz",
    )
    for case, what in zip(CASES, said, strict=True):
        assert sum(line.startswith(case) and what in line for line in lines) == 1, what
    save(left / CASES[2] / "kidney.nii.gz", label_of(SHAPE))
    save(left / f"{CASES[1]}.nii.gz", label_of(SHAPE))  # of all classes
    assert answered(store, left, tmp_path / "kidneys", *NAMES, "--only", "kidney") == 1
    printed = capsys.readouterr().out
    assert f"{left / CASES[2]}/kidney.nii.gz: holds label values 1 to 2: a mask" in printed
    assert f"2 files belong to no case that is asked for: {CASES[1]}/kidney.nii.gz" in printed
    assert set(read_maps(tmp_path / "kidneys").cases) == set(CASES[:2])
    save(left / "again" / CASES[0] / "kidney.nii.gz", masks["tumor"].astype(np.uint8))
    assert answered(store, left, tmp_path / "more", *NAMES) == 2
    assert f"is of case {CASES[0]}, as is" in capsys.readouterr().err


def test_nothing_is_skipped_in_silence(store, left, tmp_path, capsys):
    assert answered(store, left, tmp_path / "maps", *NAMES) == 2
    assert "no file is named as a case of the store, such as case_00000.npz" in capsys.readouterr().err
    save(left / f"{CASES[0]}_0000.nii.gz", label_of(SHAPE))
    save(left / "other.nii.gz", label_of(SHAPE))
    (left / "notes.txt").write_text("")
    assert answered(store, left, tmp_path / "maps") == 2
    assert "give --classes" in capsys.readouterr().err
    assert answered(store, left, tmp_path / "maps", *NAMES) == 0
    printed = capsys.readouterr().out
    assert "1 files belong to no case that is asked for: other.nii.gz" in printed
    assert (
        "passed over: 1 by ending (1 .txt)" in printed
        and "2 cases have no file" in printed
        and "case_00001, case_00002" in printed
    )
    (left / "more").mkdir()
    save(left / f"more/{CASES[0]}.nii.gz", label_of(SHAPE))
    assert answered(store, left, tmp_path / "maps", *NAMES) == 2
    assert "is of case case_00000, as is" in capsys.readouterr().err


def test_what_cannot_be_maps_is_one_line(store, left, tmp_path, capsys):
    elsewhere = KITS + np.array([[0, 0, 0, 500]] + [[0] * 4] * 3)
    save(left / f"{CASES[0]}.nii.gz", label_of(SHAPE), elsewhere)
    save(left / f"{CASES[1]}.nii.gz", np.full((*SHAPE, 2), 0.7, np.float32))
    save(left / f"{CASES[2]}.nii.gz", 3 * label_of(SHAPE))
    assert answered(store, left, tmp_path / "maps", *NAMES) == 1
    lines = capsys.readouterr().out.splitlines()
    for case, what in zip(CASES, ("have no place in common", "sum up to 1.4", "holds label value 3"), strict=True):
        assert sum(line.startswith(case) and what in line for line in lines) == 1, what
    assert not read_maps(tmp_path / "maps").cases


def test_a_teacher_of_others_that_is_known_to_leak_is_refused(store, left, tmp_path, capsys):
    split = json.loads((store / "split.json").read_text())
    (tmp_path / "seen.json").write_text(json.dumps({"train": [*split["train"], *split["test"]]}))
    save(left / f"{split['train'][0]}.nii.gz", label_of(SHAPE))
    flags = (*NAMES, "--seen", tmp_path / "seen.json")
    assert answered(store, left, tmp_path / "maps", *flags) == 2
    assert "include 1 of the student's test patients" in capsys.readouterr().err
    assert answered(store, left, tmp_path / "maps", *flags, "--allow_leak") == 0
    assert set(read_maps(tmp_path / "maps").patients["0"]["train"]) == {*split["train"], *split["test"]}
