"""Labels and images as people store them: read right, or refused with the reason and a remedy that fits."""

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest
from raw_cases import LITS, hounsfield, label_of, save

from datasets.volumes.checks import check_grid, check_image, check_label
from datasets.volumes.nifti import UnreadableVolumeError, read_header
from datasets.volumes.reading import read_image, read_label

NAMES = {1: "kidney", 2: "tumor"}


def with_slope(path: Path, dtype: type) -> Path:
    """Labels as float64, which nibabel scales to fit the type."""
    image = nibabel.Nifti1Image(label_of().astype(np.float64), LITS)
    image.set_data_dtype(dtype)
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize(("dtype", "rounded"), [(np.int16, 1.6e-5), (np.uint8, 4e-3)])
def test_labels_that_a_slope_left_near_whole_numbers_are_rounded_with_a_note(tmp_path, dtype, rounded):
    label = read_label(with_slope(tmp_path / "a.nii.gz", dtype))
    assert np.array_equal(label.array.T, label_of())
    assert 0 < label.rounded < rounded
    (finding,) = check_label(tmp_path / "a.nii.gz", label, NAMES)
    assert "from whole numbers" in finding.what and not finding.bad


@pytest.mark.parametrize("offset", [-1e-4, 1e-4])
def test_labels_that_arithmetic_left_near_whole_numbers_are_not_cut_down(tmp_path, offset):
    label = read_label(save(tmp_path / "a.nii", label_of() + offset, LITS, np.float32))
    assert label.problem is None
    assert np.array_equal(label.array.T, label_of())


REFUSED = {
    "linear": (label_of() * np.float32(0.97), "not whole numbers, such as 0.97", "nearest neighbor"),
    "ignore": (np.where(label_of() == 0, -1, label_of()).astype(np.int8), "below 0 (down to -1)", "write 0 in their"),
    "many": (label_of().astype(np.int16) * 200, "above 255 (up to 400)", "renumber"),
    "NaN": (np.where(label_of() == 0, np.nan, 1).astype(np.float32), "NaN", "write 0 in their place"),
    "255": (np.where(label_of() == 2, 255, 1).astype(np.uint8), "unexpected label 255", "no voxel can be left out"),
}


@pytest.mark.parametrize(("array", "what", "remedy"), REFUSED.values(), ids=REFUSED)
def test_a_label_that_cannot_be_used_has_a_remedy_that_fits(tmp_path, array, what, remedy):
    file = save(tmp_path / "a.nii.gz", array, LITS)
    (finding,) = check_label(file, read_label(file), NAMES)
    assert what in finding.what and remedy in finding.remedy and finding.bad


def test_one_hot_labels_are_refused_with_the_way_out(tmp_path):
    one_hot = np.stack([label_of() == value for value in range(3)], -1).astype(np.uint8)
    file, image = save(tmp_path / "a.nii", one_hot, LITS), save(tmp_path / "b.nii", hounsfield(0), LITS)
    (finding,) = check_grid(image, file, read_header(image), read_header(file), None)
    assert "(6, 10, 12, 3)" in finding.what and "argmax" in finding.remedy


def inter_not_a_number(data: bytes) -> bytes:
    return data[:112] + np.array([1, np.nan], "<f4").tobytes() + data[120:]


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
STAND_INS = {
    "gzip twice": (lambda data: gzip.compress(gzip.compress(data)), "compressed twice: unpack it once"),
    "git-lfs": (lambda data: POINTER, "git-lfs pointer, the volume was not fetched: fetch it with git lfs pull"),
    "git-lfs, packed": (lambda data: gzip.compress(POINTER), "git lfs pull"),
    "git-annex": (lambda data: b"/annex/objects/SHA256E-s2280000--b3b0.nii.gz\n", "git annex get"),
    "web page": (lambda data: b"<!DOCTYPE html><html>Sign in</html>", "is a web page, not a volume"),
    "nothing": (lambda data: b"", "is empty"),
    "cut": (lambda data: data[:300], "48 bytes missing"),
    "inter": (inter_not_a_number, "scl_slope is 1 and scl_inter nan: write scl_inter again"),
}


@pytest.mark.parametrize(("change", "what"), STAND_INS.values(), ids=STAND_INS)
def test_what_lies_in_the_place_of_a_volume_is_named(tmp_path, change, what):
    file = save(tmp_path / "a.nii", label_of(), LITS)
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(UnreadableVolumeError) as error:
        read_header(file)
    assert what in str(error.value)


def test_zeros_after_the_gzip_stream_are_read_over(tmp_path):
    file = save(tmp_path / "a.nii.gz", label_of(), LITS)
    file.write_bytes(file.read_bytes() + bytes(512))
    assert np.array_equal(read_label(file).array.T, label_of())


@pytest.mark.parametrize(
    ("dtype", "extreme", "kept", "said"),
    [
        (np.uint16, 65535, 32767, "0 to 65535, 1 of 720 voxels"),
        (np.int32, 40000, 32767, "-1000 to 40000, 1 of 720 voxels"),
        (np.float32, 1e5, 32767, "-1000 to 100000, 1 of 720 voxels"),
        (np.float64, -1e9, -32768, "values -1e+09 to 1495, 1 of 720 voxels"),
    ],
)
def test_hounsfield_units_beyond_int16_are_clipped_with_a_note(tmp_path, dtype, extreme, kept, said):
    array = hounsfield(0).astype(np.float64)
    array[0, 0, 0] = -1000
    if dtype is np.uint16:
        array = np.maximum(array, 0)
    array[1, 2, 3] = extreme
    image = read_image(save(tmp_path / "a.nii.gz", array, LITS, dtype), "CT")
    expected = np.clip(np.rint(array), -32768, 32767)
    assert image.array.dtype == np.int16 and image.array.T[1, 2, 3] == kept
    assert np.array_equal(image.array.T, expected)
    assert image.clipped == 1 and image.statistics.mean == pytest.approx(expected.mean())
    (finding,) = check_image(tmp_path / "a.nii.gz", image, "CT")
    if dtype is np.uint16:  # no air in it: that is what is wrong
        assert finding.bad and finding.what == "HU range is not CT (0 to 65535)"
    else:
        assert not finding.bad and said in finding.what and "clipped" in finding.what


def test_hounsfield_units_at_the_ends_of_int16_are_kept_without_a_note(tmp_path):
    array = hounsfield(0).astype(np.int32)
    array[0, 0, :2] = -32768, 32767
    image = read_image(save(tmp_path / "a.nii.gz", array, LITS), "CT")
    assert np.array_equal(image.array.T, array) and image.clipped == 0
    assert check_image(tmp_path / "a.nii.gz", image, "CT") == []


def test_intensities_of_16_bits_are_kept_and_those_beyond_float32_refused_with_the_reason(tmp_path):
    array = np.arange(720).reshape(6, 10, 12).astype(np.uint16)
    array[0, 0, 0] = 65535
    image = read_image(save(tmp_path / "a.nii.gz", array, LITS), "MR")
    assert np.array_equal(image.array.T, array)
    assert (image.half, image.integral, image.maximum) == (False, True, 65535)  # float16 ends at 65504
    image = read_image(save(tmp_path / "b.nii.gz", array * 1e36, LITS, np.float64), "MR")
    (finding,) = check_image(tmp_path / "b.nii.gz", image, "MR")
    assert finding.what == "values up to 6.5535e+40 do not fit in float32" and finding.remedy == "rescale them"
    image = read_image(save(tmp_path / "c.nii.gz", np.where(array > 99, np.nan, array), LITS, np.float64), "MR")
    assert check_image(tmp_path / "c.nii.gz", image, "MR")[0].what == "holds NaN or infinite values"
