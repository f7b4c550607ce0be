"""Volumes in formats that are not read are named as what they are, with the remedy to convert them."""

import nibabel
import numpy as np
import pytest
from raw_cases import KITS, LITS, hounsfield, kits_case, label_of, make, save

from datasets.volumes.checks import REORIENT, check_grid
from datasets.volumes.geometry import is_turned
from datasets.volumes.nifti import UnreadableVolumeError, read_header
from datasets.volumes.reading import read_label

STARTS = {
    "a.mha": (b"ObjectType = Image\nNDims = 3\n", "is a MetaImage file: convert it to .nii.gz"),
    "b.nii.gz": (b"NRRD0004\ntype: short\n", "is an NRRD file: convert it to .nii.gz"),
    "c.nii.gz": (b"PK\3\4" + bytes(500), "is a zip archive: unpack it"),
    "d.nii.gz": (bytes(128) + b"DICM" + bytes(500), "is a DICOM file: name it .dcm, and give the folder of its series"),
    "e.txt": (b"patient 7", "is not a NIfTI volume: give a .nii or .nii.gz file"),
    "f.nii": (b"\x5c\1", "truncated or damaged (346 bytes missing): copy or download the file again"),
}


@pytest.mark.parametrize("name", STARTS)
def test_a_file_of_another_kind_is_named_as_such(tmp_path, name):
    content, what = STARTS[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnreadableVolumeError) as raised:
        read_header(tmp_path / name)
    assert str(raised.value) == f"{tmp_path / name}: {what}"


@pytest.mark.parametrize("kind", [nibabel.Nifti1Pair, nibabel.Spm2AnalyzeImage])
def test_a_file_of_a_pair_is_named_as_such(tmp_path, kind):
    nibabel.save(kind(hounsfield(0), KITS), tmp_path / "a.img")
    with pytest.raises(UnreadableVolumeError, match="pair of files"):
        read_header(tmp_path / "a.hdr")
    with pytest.raises(UnreadableVolumeError, match="pair of files"):
        read_header(tmp_path / "a.img")


@pytest.mark.parametrize(
    ("dataset", "missing", "other"),
    [
        ("kits", "case_00001/imaging.nii.gz", "case_00001/imaging.mha"),
        ("kits", "case_00001/segmentation.nii.gz", "case_00001/Segmentation.seg.nrrd"),
        ("lits", "batch/volume-1.nii.gz", "batch/volume-1.nrrd"),
        ("acdc", "patient001/patient001_frame01_gt.nii.gz", "patient001/patient001_frame01_gt.hdr"),
    ],
)
def test_a_volume_in_another_format_is_not_called_missing_only(tmp_path, capsys, dataset, missing, other):
    raw = tmp_path / "raw"
    for number in (1, 2):
        if dataset == "kits":
            kits_case(raw, number)
            continue
        frame = f"patient00{number}/patient00{number}_frame01"
        pair = (
            [f"batch/volume-{number}", f"batch/segmentation-{number}"] if dataset == "lits" else [frame, f"{frame}_gt"]
        )
        save(raw / f"{pair[0]}.nii.gz", hounsfield(number).T, LITS)
        save(raw / f"{pair[1]}.nii.gz", label_of().T, LITS)
    (raw / missing).unlink()
    (raw / other).write_bytes(b"another format")
    assert make(raw, tmp_path / "out", dataset=dataset) == 1
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "there is" in line]
    assert line.endswith(f": missing, there is {(raw / other).name}: convert that to .nii.gz")


def test_a_label_file_that_holds_an_image_is_asked_about(tmp_path):
    assert read_label(save(tmp_path / "image.nii", hounsfield(0))).remedy == "is this an image? give its labels"
    ignored = read_label(save(tmp_path / "ignored.nii", label_of().astype(np.int16) - 1))
    assert ignored.problem == "holds values below 0 (down to -1)" and "image" not in ignored.remedy


def reoriented(file, codes: str):
    image = nibabel.load(file)
    wanted = nibabel.orientations.axcodes2ornt(codes)
    turn = nibabel.orientations.ornt_transform(nibabel.io_orientation(image.affine), wanted)
    nibabel.save(image.as_reoriented(turn), file.with_name(f"{codes}.nii"))
    return file.with_name(f"{codes}.nii")


def test_the_remedy_for_a_turned_grid_is_to_turn_it_back(tmp_path):
    cube = np.zeros((8, 8, 8), np.uint8)
    image, label = save(tmp_path / "image.nii", cube, LITS), save(tmp_path / "label.nii", cube, LITS)
    for codes in ("RAS", "LAS", "SLP"):
        file = reoriented(label, codes)
        (finding,) = check_grid(image, file, read_header(image), read_header(file), None)
        assert finding.remedy == REORIENT
    moved = LITS.copy()
    moved[0, 3] += 5
    assert not is_turned(LITS, LITS, cube.shape) and not is_turned(LITS, moved, cube.shape)
    assert not is_turned(LITS, LITS @ np.diag([-1, 1, 1, 1]), cube.shape)  # another place: the header is wrong
    assert not is_turned(LITS, np.eye(4), cube.shape)
