"""What a NIfTI header says of its grid against itself: the affine counts, and whatever contradicts it is named."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
from raw_cases import LITS, label_of

from datasets.volumes.checks import check_header
from datasets.volumes.geometry import voxel_ml
from datasets.volumes.nifti import read_header

PIXDIM, QFAC, UNITS, QFORM_CODE, SFORM_CODE, QUATERN_B, SROW = 80, 76, 123, 252, 254, 256, 280
SHEARED = LITS @ np.array([[1, 0, 0.8, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
MIRRORED, TURNED = np.diag([-1, 1, 1, 1]) @ LITS, LITS[[1, 0, 2, 3]]


def f4(*values: float) -> bytes:
    return np.array(values, "<f4").tobytes()


def volume(path: Path, *fields: tuple[int, bytes], affine=LITS, sform=1, qform=1, other=None) -> Path:
    """A volume whose header is then overwritten at byte positions; other: a qform that is not the sform."""
    image = nibabel.Nifti1Image(label_of(), affine)
    image.set_sform(affine, sform)
    image.set_qform(affine if other is None else other, qform)
    image.header.set_xyzt_units("mm")
    data = bytearray(image.to_bytes())
    for place, value in fields:
        data[place : place + len(value)] = value
    path.write_bytes(data)
    return path


SOUND = {
    "both forms": {},
    "the sform alone, qfac 0": {"qform": 0, "fields": [(QFAC, f4(0))]},
    "the qform alone": {"sform": 0},
    "units unknown": {"fields": [(UNITS, b"\0")]},
    "an oblique affine": {"affine": nibabel.affines.from_matvec(nibabel.eulerangles.euler2mat(0.3, 0.2, 0.1) * 0.7)},
    "pixdim rounded": {"fields": [(PIXDIM, f4(0.801, 0.8, 2.5))]},
}


@pytest.mark.parametrize("changes", SOUND.values(), ids=SOUND)
def test_a_header_that_agrees_with_itself_has_no_finding(tmp_path, changes):
    changes = dict(changes)
    file = volume(tmp_path / "a.nii", *changes.pop("fields", ()), **changes)
    assert check_header(file, read_header(file)) == []


NOTES = {
    "pixdim 1": ([(PIXDIM, f4(1, 1, 1))], {"qform": 0}, "pixdim 1 x 1 x 1 contradicts the affine"),
    "pixdim 0": ([(PIXDIM, f4(0, 0.8, 2.5))], {}, "pixdim 0 x 0.8 x 2.5 is not a voxel size; the sform counts: 0.8 x"),
    "pixdim NaN": ([(PIXDIM, f4(np.nan, 0.8, 2.5))], {}, "pixdim nan x 0.8 x 2.5 is not a voxel size"),
    "pixdim negative": ([(PIXDIM, f4(-0.8, 0.8, 2.5))], {}, "pixdim -0.8 x 0.8 x 2.5 is not a voxel size"),
    "micrometers": ([(UNITS, b"\3")], {}, "units are micrometers, its affine says 0.8 x 0.8 x 2.5, which counts as mm"),
    "meters": ([(UNITS, b"\1")], {}, "units are meters"),
    "unit 5": ([(UNITS, b"\5")], {}, "units are unknown (code 5)"),
    "sheared": ([], {"affine": SHEARED, "qform": 0}, "affine is sheared (two axes meet at 75.6 degrees)"),
    "mirrored forms": ([], {"other": MIRRORED}, "sform (code 1) and qform (code 1) are mirror images of each other"),
    "turned forms": ([], {"other": TURNED @ np.diag([1, -1, 1, 1]), "qform": 4}, "qform (code 4) disagree (up to"),
    "wrong quaternion": ([(QUATERN_B, f4(3))], {}, "its qform is not finite or no rotation"),
    "qfac 0": ([(QFAC, f4(0))], {"sform": 0}, "qfac (pixdim[0]) is 0 and counts as 1"),
    "sform code 99": ([(SFORM_CODE, b"\x63\0")], {"qform": 0}, "sform code 99 is unknown and counts as set"),
    "no form": ([], {"sform": 0, "qform": 0}, "neither sform nor qform is set"),
}


@pytest.mark.parametrize(("fields", "changes", "what"), NOTES.values(), ids=NOTES)
def test_what_contradicts_the_affine_is_a_note_and_the_affine_counts(tmp_path, fields, changes, what):
    file = volume(tmp_path / "a.nii", *fields, **changes)
    header = read_header(file)
    (finding,) = check_header(file, header)
    assert what in finding.what and not finding.bad
    assert header.spacing == ((0.8, 0.8, 2.58062) if "sheared" in what else (0.8, 0.8, 2.5))


BAD = {
    "sform all zero": ([(SROW, f4(*[0] * 12))], {}, "affine is singular or not finite (sform)", "set its code to 0"),
    "sform zero alone": ([(SROW, f4(*[0] * 12))], {"qform": 0}, "affine is singular", "write the volume again"),
    "pixdim 0": ([(PIXDIM, f4(0, 1, 1))], {"sform": 0}, "(qform, pixdim 0 x 1 x 1)", "write the volume again"),
    "pixdim NaN": ([(PIXDIM, f4(np.nan, 1, 1))], {"sform": 0}, "(qform, pixdim nan x 1 x 1)", "write the volume again"),
    "pixdim -1": ([(PIXDIM, f4(-1, 1, 1))], {"sform": 0}, "pixdim -1 x 1 x 1 is not a voxel size", "its spacing"),
    "quaternion": ([(QUATERN_B, f4(3))], {"sform": 0}, "affine is singular or not finite (qform)", "its affine"),
    "in micrometers": ([(UNITS, b"\3")], {"affine": np.diag([-800, -800, 2500, 1.0])}, "units are micro", "in mm"),
    "in meters": ([(UNITS, b"\1")], {"affine": np.diag([-8e-4, -8e-4, 25e-4, 1.0])}, "units are meters", "in mm"),
}


@pytest.mark.parametrize(("fields", "changes", "what", "remedy"), BAD.values(), ids=BAD)
def test_an_affine_that_gives_no_millimeters_keeps_the_case_out(tmp_path, fields, changes, what, remedy):
    file = volume(tmp_path / "a.nii", *fields, **changes)
    (finding,) = check_header(file, read_header(file))
    assert what in finding.what and remedy in finding.remedy and finding.bad


def test_spacing_and_milliliters_are_those_of_the_affine(tmp_path):
    header = read_header(volume(tmp_path / "a.nii", (PIXDIM, f4(1, 1, 1))))
    assert header.spacing == (0.8, 0.8, 2.5)
    assert voxel_ml(header.affine) == pytest.approx(0.0016)
    sheared = read_header(volume(tmp_path / "b.nii", affine=SHEARED, qform=0))
    # the third axis leans by 0.8 * 0.8 = 0.64 mm in x: sqrt(0.64^2 + 2.5^2); the volume stays
    assert sheared.spacing == (0.8, 0.8, 2.58062)
    assert voxel_ml(sheared.affine) == pytest.approx(0.0016)
