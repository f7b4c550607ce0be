"""Raw layouts and NIfTI volumes of any type, as arrays."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from isal import igzip
from raw_cases import KITS, LITS, hounsfield, label_of, make, msd, save, volume_of

from datasets.slices.store import read_index, read_slice
from datasets.volumes.layouts import find_cases
from datasets.volumes.nifti import read_header
from datasets.volumes.reading import read_image, read_label

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32, np.float64, ">i2", ">f4"])
@pytest.mark.parametrize("scaled", [False, True])
def test_any_type_on_disk_becomes_the_same_hounsfield_units(tmp_path, dtype, scaled):
    raw = np.arange(240).reshape(4, 6, 10)
    header = nibabel.Nifti1Header(endianness=">" if str(dtype).startswith(">") else "<")
    header.set_data_dtype(np.dtype(dtype))
    image = nibabel.Nifti1Image(raw.astype(dtype), LITS, header)
    if scaled:
        image.header.set_slope_inter(2, -1024)
    nibabel.save(image, tmp_path / "a.nii.gz")
    expected = np.asarray(nibabel.load(tmp_path / "a.nii.gz").get_fdata())
    read = read_image(tmp_path / "a.nii.gz", "CT")
    assert read.array.dtype == np.int16
    assert np.array_equal(read.array.T, np.rint(expected))


def test_slope_and_inter_of_the_file_are_applied(tmp_path):
    header = nibabel.Nifti1Header()
    header.set_data_shape((2, 2, 2))
    header.set_data_dtype(np.uint16)
    header["magic"], header["vox_offset"], header["scl_slope"], header["scl_inter"] = b"n+1", 352, 2, -1024
    (tmp_path / "a.nii").write_bytes(header.binaryblock + bytes(4) + np.arange(8, dtype=np.uint16).tobytes())
    # 2 * value - 1024, the first axis fastest
    assert read_image(tmp_path / "a.nii", "CT").array.ravel().tolist() == list(range(-1024, -1008, 2))


def test_hounsfield_units_are_rounded_to_the_nearest(tmp_path):
    values = np.array([-1000.6, -0.4, 0.4, 10.7, 99.9, 200.0, 300.2, 400.0]).reshape(2, 2, 2)
    read = read_image(save(tmp_path / "a.nii", values), "CT")
    assert read.array.T.ravel().tolist() == [-1001, 0, 0, 11, 100, 200, 300, 400]


def test_slabs_join_without_a_seam(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.volumes.nifti.SLAB_VOXELS", 7)
    save(tmp_path / "a.nii.gz", hounsfield(3), dtype=np.float64)
    read = read_image(tmp_path / "a.nii.gz", "CT")
    assert np.array_equal(read.array.T, hounsfield(3))
    assert read.statistics.mean == pytest.approx(hounsfield(3).mean())
    assert np.array_equal(read_label(save(tmp_path / "b.nii", label_of())).array.T, label_of())


@pytest.mark.parametrize(("step", "dtype"), [(1.0, np.float16), (0.001, np.float32)])
def test_mr_is_half_precision_only_where_nothing_is_lost(tmp_path, step, dtype):
    values = (np.arange(720).reshape(6, 10, 12) * step).astype(np.float32)
    msd(tmp_path / "raw", {"a": values})
    assert make(tmp_path / "raw", tmp_path / "out", dataset="msd") == 0
    image, _ = volume_of(tmp_path / "out", "a")
    assert image.dtype == dtype
    assert np.array_equal(image.astype(np.float32), values)


def test_msd_names_tell_the_tumor_labels(tmp_path):
    names = {"0": "background", "1": "liver", "2": "cancer"}
    raw = find_cases("msd", msd(tmp_path, {"a": hounsfield(0)}, {"0": "CT"}, names))
    assert raw.modality == "CT" and raw.tumor_labels == [2]


def test_one_channel_of_several_must_be_chosen(tmp_path, capsys):
    channels = np.stack([hounsfield(0), hounsfield(1)], axis=-1)
    msd(tmp_path / "raw", {"a": channels}, {"0": "T1", "1": "T2"})
    assert make(tmp_path / "raw", tmp_path / "none", dataset="msd") == 1
    assert "choose one with --channel 0..1" in capsys.readouterr().out
    assert make(tmp_path / "raw", tmp_path / "out", "--channel", "1", dataset="msd") == 0
    assert np.array_equal(volume_of(tmp_path / "out", "a")[0], hounsfield(1))


def test_both_frames_of_an_acdc_patient_fall_into_one_split(tmp_path):
    for patient in range(1, 5):
        folder = tmp_path / f"raw/training/patient{patient:03d}"
        for frame in (1, 12):
            save(
                folder / f"patient{patient:03d}_frame{frame:02d}.nii.gz", hounsfield(patient * 20 + frame) + 1000, LITS
            )
            save(folder / f"patient{patient:03d}_frame{frame:02d}_gt.nii.gz", label_of(), LITS)
        (folder / "Info.cfg").write_text("ED: 1\nES: 12\nGroup: DCM\n")
    assert make(tmp_path / "raw", tmp_path / "out", dataset="acdc") == 0
    records = read_index(tmp_path / "out")
    assert len({record.case for record in records}) == 8
    assert len({(record.patient, record.split) for record in records}) == 4


def test_a_compressed_file_is_read_whole_and_a_nifti2_too(tmp_path):
    content = nibabel.Nifti2Image(hounsfield(5), KITS).to_bytes()
    (tmp_path / "a.nii").write_bytes(igzip.compress(content))  # compressed, whatever its name says
    assert read_header(tmp_path / "a.nii").shape == (6, 10, 12)
    assert np.array_equal(read_image(tmp_path / "a.nii", "CT").array.T, hounsfield(5))


def test_a_real_ct_has_the_liver_and_the_right_kidney_on_the_left(tmp_path):
    source = SHARED / "totalseg_example"
    if not source.is_dir():
        pytest.skip("no real CT at ../shared/data/totalseg_example")
    for role, name in (("imagesTr", "example_ct.nii.gz"), ("labelsTr", "example_seg_fast_force_split.nii.gz")):
        (tmp_path / "raw" / role).mkdir(parents=True)
        (tmp_path / "raw" / role / "a.nii.gz").symlink_to(source / name)
    entry = {"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz"}
    labels = {str(value): f"structure {value}" for value in range(130)}
    content = {"modality": {"0": "CT"}, "labels": labels, "training": [entry]}
    (tmp_path / "raw/dataset.json").write_text(json.dumps(content))
    assert make(tmp_path / "raw", tmp_path / "out", dataset="msd") == 0
    pairs = [read_slice(record.path) for record in read_index(tmp_path / "out")]
    label, image = np.stack([pair[1] for pair in pairs]), np.stack([pair[0] for pair in pairs])
    right_kidney, left_kidney, liver = (np.argwhere(label == value).mean(0) for value in (2, 3, 5))
    assert right_kidney[2] < left_kidney[2] and liver[2] < label.shape[2] / 2
    assert liver[0] > right_kidney[0]  # the liver reaches higher
    bone = np.argwhere(image[label.shape[0] // 2] > 300).mean(0)
    assert bone[0] > label.shape[1] / 2  # the spine lies at the bottom
