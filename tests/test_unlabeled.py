"""Scans that nobody labeled: sliced into a store of their own, which every command that needs labels refuses."""

import json
import shutil

import numpy as np
import pytest
from raw_cases import cases_of, contents, hounsfield, kits_case, make, save, volume_of
from test_dicom import hounsfield as series_values
from test_dicom import write_series

from datasets.scan import scan
from datasets.slices.store import read_index, read_manifest
from datasets.splits import read_split
from datasets.volumes.scans import cases_of as found_in


@pytest.fixture
def scans(tmp_path):
    """Five CT volumes and a DICOM series in folders of its own."""
    for number in range(5):
        save(tmp_path / f"scans/scan_{number}.nii.gz", hounsfield(number))
    write_series(tmp_path / "scans/patient/series")
    return tmp_path / "scans"


def sliced(scans, out, *flags):
    return make(scans, out, *flags, dataset="unlabeled")


def test_files_and_series_become_a_store_without_labels(scans, tmp_path, capsys):
    assert sliced(scans, tmp_path / "out") == 0
    printed = capsys.readouterr().out
    assert "unlabeled, CT, npz, no labels" in printed and "labels  slices" not in printed
    manifest = read_manifest(tmp_path / "out")
    assert manifest["labels"] == {} and manifest["modality"] == "CT" and manifest["tumor_labels"] == []
    assert cases_of(tmp_path / "out") == ["patient_series", *(f"scan_{number}" for number in range(5))]
    assert {record.labels for record in read_index(tmp_path / "out")} == {()}
    split = read_split(tmp_path / "out/split.json")
    assert split["train"] and split["val"] and split["test"]
    image, label = volume_of(tmp_path / "out", "scan_3")
    assert np.array_equal(image, hounsfield(3)) and label.shape == image.shape and not label.any()
    series = volume_of(tmp_path / "out", "patient_series")[0]
    assert sorted(series.ravel().tolist()) == sorted(series_values().ravel().tolist())
    size = (tmp_path / "out/scan_3/0000.npz").stat().st_size
    assert size < 2 * hounsfield(3)[0].size + 800  # no label takes a byte a pixel


def test_a_series_has_the_patient_of_its_tags_and_its_number_stays_at_home(scans, tmp_path):
    for name, places in (("first", (4, 3, 2, 1, 0)), ("second", (1, 0, 2, 3, 4))):
        write_series(scans / name, places=places, tags={"0010|0020": "MRN 4711", "0020|000e": f"1.2.{len(name)}"})
    sliced(scans, tmp_path / "out")
    patients = {record.case: record.patient for record in read_index(tmp_path / "out")}
    assert patients["first"] == patients["second"] and patients["first"].startswith("patient-")
    assert patients["scan_0"] == "scan_0" and patients["patient_series"] not in ("", patients["first"])
    assert not [name for name, content in contents(tmp_path / "out").items() if b"4711" in content]


def test_what_is_sliced_is_kept_until_a_file_changes(scans, tmp_path, capsys):
    sliced(scans, tmp_path / "out")
    capsys.readouterr()
    assert sliced(scans, tmp_path / "out") == 0
    assert "0 sliced now, 6 kept" in capsys.readouterr().out
    write_series(scans / "patient/series", gap=3.0)
    assert sliced(scans, tmp_path / "out") == 0
    assert "1 sliced now, 5 kept" in capsys.readouterr().out


@pytest.mark.parametrize("flags", [("--format", "png"), ("--spacing", "1.2"), ("--compress",)])
def test_every_way_of_storing_does_without_labels(scans, tmp_path, flags):
    assert sliced(scans, tmp_path / "out", *flags) == 0
    _, label = volume_of(tmp_path / "out", "scan_1") if "--spacing" not in flags else (None, np.zeros(1))
    assert not label.any() and not list((tmp_path / "out").rglob("source_labels.npz"))
    assert json.loads((tmp_path / "out/scan_1/geometry.json").read_text())["label_sha256"] is None


def test_labels_beside_the_scans_are_not_taken_for_scans(tmp_path):
    kits_case(tmp_path / "raw", 0)
    kits_case(tmp_path / "raw", 1)
    shutil.copy(tmp_path / "raw/case_00000/imaging.nii.gz", tmp_path / "raw/a.nii.gz")
    shutil.copy(tmp_path / "raw/case_00000/segmentation.nii.gz", tmp_path / "raw/a_seg.nii.gz")
    assert make(tmp_path / "raw", tmp_path / "out", dataset="unlabeled") == 1  # the same scan twice
    assert cases_of(tmp_path / "out") == ["a", "case_00001"]


def test_a_ct_or_mri_in_a_folder_of_its_own_goes_by_the_folder(tmp_path):
    """As in the data of TotalSegmentator; beside other scans it is one of them."""
    for name in ("s0000/ct", "s0000/segmentations/liver", "s0001/mri", "s0001/body", "ct", "pet"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{name}.nii.gz").touch()
    found = {case.name: case.path for case in found_in(scan(tmp_path))}
    files = {name: f"{name}.nii.gz" for name in ("ct", "pet")} | {
        "s0000": "s0000/ct.nii.gz",
        "s0001": "s0001/mri.nii.gz",
    }
    assert found == {name: tmp_path / file for name, file in files.items()}


def test_the_modality_is_the_series_or_the_flags(scans, tmp_path, capsys):
    write_series(scans / "mr", tags={"0008|0060": "MR"})
    assert sliced(scans, tmp_path / "out") == 1
    assert (
        f"{scans / 'mr'}: the series is MR, the others are CT: slice it into another store" in capsys.readouterr().out
    )
    assert sliced(scans, tmp_path / "mr", "--modality", "MR") == 1
    assert read_manifest(tmp_path / "mr")["modality"] == "MR" and "patient_series" not in cases_of(tmp_path / "mr")
    kits_case(tmp_path / "raw", 0)
    assert make(tmp_path / "raw", tmp_path / "kits", "--modality", "MR") == 2
    assert "--modality MR: kits says what its images are" in capsys.readouterr().err


def test_a_store_of_scans_and_a_labeled_one_do_not_mix(scans, tmp_path, capsys):
    kits_case(tmp_path / "raw", 0)
    make(tmp_path / "raw", tmp_path / "out")
    assert sliced(scans, tmp_path / "out") == 2
    assert "holds dataset kits, not unlabeled" in capsys.readouterr().err
    assert sliced(scans, tmp_path / "other", "--task", "organ") == 2
    assert "--task organ: unlabeled scans have no labels" in capsys.readouterr().err
