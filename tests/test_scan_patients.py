"""Whose scan a case is: frames and sessions of one patient stay in one split."""

import json
from pathlib import Path

import pytest
from raw_cases import hounsfield, make, msd

from datasets.volumes.layouts.patients import patients_of


@pytest.mark.parametrize(
    ("cases", "patients"),
    [
        ("patient001_frame01 patient001_frame12 patient002_frame01", "patient001 patient001 patient002"),
        ("sub-01_ses-1_ct sub-01_ses-2_ct sub-02", "sub-01 sub-01 sub-02"),
        ("case_01_t0 case_01_t1 case_02_t0", "case_01 case_01 case_02"),
        ("liver_0 liver_1", "liver_0 liver_1"),
        ("s01 hippocampus_001", "s01 hippocampus_001"),
        ("KiTS19_01 KiTS19_02", "KiTS19_01 KiTS19_02"),
    ],
)
def test_scans_of_one_patient_share_it(cases, patients):
    found, notes = patients_of(cases.split(), Path("dataset.json"))
    assert [found[case] for case in cases.split()] == patients.split() and notes == []


@pytest.mark.parametrize("cases", ["LiTS17_t01 LiTS17_t02", "p01_left p01_right p02_left"])
def test_scans_that_may_be_of_one_patient_are_named(cases):
    first, second, *_ = cases.split()
    found, (note,) = patients_of(cases.split(), Path("dataset.json"))
    assert len(set(found.values())) == len(cases.split())
    assert note.what == f"{first} and {second} may be scans of one patient, yet each counts as a patient"


def test_frames_of_a_patient_are_sliced_into_one_split(tmp_path):
    frames = {
        f"patient{patient:03d}_frame{frame}": hounsfield(10 * patient + frame)
        for patient in range(3)
        for frame in (1, 2)
    }
    msd(tmp_path / "raw", frames, {"0": "CT"})
    assert make(tmp_path / "raw", tmp_path / "out", dataset="msd") == 0
    split = json.loads((tmp_path / "out/split.json").read_text())
    assert sorted(split[name][0] for name in ("train", "val", "test")) == ["patient000", "patient001", "patient002"]
