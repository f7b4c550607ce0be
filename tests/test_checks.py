"""What is wrong with raw data is told in one line, and keeps a case out only where it must."""

import json
from pathlib import Path

import numpy as np
import pytest
from raw_cases import KITS, hounsfield, kits_case, label_of, make, msd

from datasets.slices.store import read_index
from scripts.SliceMaker import main


@pytest.fixture
def kits(tmp_path) -> Path:
    for number in range(4):
        kits_case(tmp_path / "raw", number)
    return tmp_path / "raw"


def bad_nan(raw):
    kits_case(raw, 1, image=np.where(label_of() == 2, np.nan, hounsfield(1)).astype(np.float32))


def bad_truncated(raw):
    file = raw / "case_00001/imaging.nii.gz"
    file.write_bytes(file.read_bytes()[:-200])


def bad_text(raw):
    (raw / "case_00001/imaging.nii.gz").write_text("404 not found" * 100)


def bad_bit(raw):
    file = raw / "case_00001/imaging.nii.gz"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def bad_shape(raw):
    kits_case(raw, 1, label=label_of((5, 10, 12)))


def bad_affine(raw):
    kits_case(raw, 1, label_affine=KITS @ np.diag([1, 1, -1, 1]))


def bad_fraction(raw):
    kits_case(raw, 1, label=label_of() * np.float32(0.5))


def bad_value(raw):
    kits_case(raw, 1, label=label_of() * 4)


def bad_range(raw):
    kits_case(raw, 1, image=hounsfield(1).astype(np.uint16) % 256)


def bad_offset(raw):
    kits_case(raw, 1, image=hounsfield(1) + 1024)


def bad_copy(raw):
    kits_case(raw, 1, image=hounsfield(0))


def bad_identity(raw):
    kits_case(raw, 1, affine=np.eye(4))
    spacing = {"x_spacing": 0.8, "y_spacing": 0.8, "z_spacing": 2.5}
    (raw / "kits.json").write_text(json.dumps([{"case_id": "case_00001", "voxel_spacing": spacing}]))


def bad_missing(raw):
    (raw / "case_00001/imaging.nii.gz").unlink()


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (bad_nan, "NaN"),
        (bad_truncated, "truncated"),
        (bad_text, "not a single-file NIfTI"),
        (bad_bit, "truncated or damaged"),
        (bad_shape, "shape (5, 10, 12) differs"),
        (bad_affine, "affine differs"),
        (bad_fraction, "not whole numbers, such as 0.5"),
        (bad_value, "unexpected label 4, 8"),
        (bad_range, "HU range is not CT"),
        (bad_offset, "HU range is not CT (30 to 2521)"),
        (bad_copy, "duplicate of case_00000"),
        (bad_identity, "identity affine contradicts kits.json"),
        (bad_missing, "missing"),
    ],
)
def test_a_bad_case_is_told_and_left_out_and_the_rest_finish(kits, tmp_path, capsys, spoil, what):
    spoil(kits)
    assert main(["--inpath", str(kits), "--dataset", "kits", "--check", "--jobs", "1"]) == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if what in line]
    assert len(lines) == 1 and "case_00001" in lines[0] and lines[0].count(": ") >= 2
    assert make(kits, tmp_path / "out") == 1
    assert what in capsys.readouterr().out
    assert {record.case for record in read_index(tmp_path / "out")} == {"case_00000", "case_00002", "case_00003"}


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"label": label_of() * 0}, "empty label"),
        ({}, "slices are 10x12, not 512x512"),
        ({"affine": np.eye(4)}, "identity"),
    ],
)
def test_what_may_be_meant_is_told_but_sliced(tmp_path, capsys, changes, what):
    kits_case(tmp_path / "raw", 0, **changes)
    assert main(["--inpath", str(tmp_path / "raw"), "--dataset", "kits", "--check"]) == 1
    assert what in capsys.readouterr().out
    assert make(tmp_path / "raw", tmp_path / "out") == 0
    assert f"{what}" in capsys.readouterr().out


def test_check_writes_nothing_and_finds_nothing_in_sound_data(tmp_path, capsys):
    folder = kits_case(tmp_path / "raw", 0, image=hounsfield(0, (3, 512, 512)), label=label_of((3, 512, 512)))
    before = sorted(folder.parent.rglob("*"))
    assert main(["--inpath", str(tmp_path / "raw"), "--dataset", "kits", "--check"]) == 0
    assert capsys.readouterr().out == ""
    assert sorted(tmp_path.rglob("*")) == sorted([folder.parent, *before])


def test_a_file_that_is_listed_as_image_and_label_is_no_case(tmp_path, capsys):
    raw = msd(tmp_path / "raw", {f"h_{number}": hounsfield(number).T for number in range(2)})
    (raw / "imagesTr/h_1.nii.gz").unlink()
    (raw / "imagesTr/h_1.nii.gz").symlink_to("../labelsTr/h_1.nii.gz")
    assert main(["--inpath", str(raw), "--dataset", "msd", "--check", "--jobs", "1"]) == 1
    what = "h_1.nii.gz: is the file of the image as well: give the label of this image"
    assert what in capsys.readouterr().out
