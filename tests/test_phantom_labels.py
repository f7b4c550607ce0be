"""The phantom around label volumes: grid, orientation, reduction, refusals, repeated renderings."""

import gzip
import json

import nibabel as nib
import numpy as np
import pytest

from datasets.phantom.drawing import draw_phantom, render_around
from datasets.phantom.files import write_kits_case
from datasets.phantom.labels import LabelReduction
from scripts import MakePhantom


def drawn_label(shape=(24, 48, 48)):
    """Two balls of kidney, the left one with a ball of tumor at its outer side; spacing 5 x 7 x 7 mm."""
    z, y, x = np.meshgrid(*[np.arange(n) for n in shape], indexing="ij")

    def ball(cz, cy, cx, radius):
        return ((z - cz) * 5) ** 2 + ((y - cy) * 7) ** 2 + ((x - cx) * 7) ** 2 < radius**2

    label = np.zeros(shape, np.uint8)
    label[ball(12, 26, 14, 38) | ball(12, 26, 33, 38)] = 1
    label[ball(11, 26, 37, 24)] = 2
    return label


def save_label(folder, label, affine=None, dtype=np.uint8):
    folder.mkdir(parents=True)
    if affine is None:
        affine = np.array([[0, 0, -7.0, 0], [0, -7, 0, 0], [-5, 0, 0, 0], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(label.astype(dtype), affine), folder / "segmentation.nii.gz")


def test_a_rendered_case_keeps_the_label_and_the_grid_of_its_file(tmp_path):
    label = drawn_label()
    save_label(tmp_path / "in" / "case_00007", label)
    source = nib.load(tmp_path / "in" / "case_00007" / "segmentation.nii.gz")
    arguments = ["--outpath", str(tmp_path / "out"), "--labels", str(tmp_path / "in"), "--jobs", "1"]
    assert MakePhantom.main(arguments) == 0
    for name in ("imaging", "segmentation"):
        made = nib.load(tmp_path / "out" / "case_00007" / f"{name}.nii.gz")
        assert made.shape == label.shape
        assert np.array_equal(made.affine, source.affine)
        for code in ("qform_code", "sform_code"):
            assert made.header[code] == source.header[code]
    assert np.array_equal(np.asanyarray(made.dataobj), label)
    assert made.get_data_dtype() == np.uint8


def test_a_label_file_in_another_orientation_gives_the_same_patient(tmp_path):
    label = drawn_label()
    save_label(tmp_path / "a" / "case_00001", label)
    other = nib.as_closest_canonical(nib.load(tmp_path / "a" / "case_00001" / "segmentation.nii.gz"))
    save_label(tmp_path / "b" / "case_00001", np.asanyarray(other.dataobj), other.affine, np.float32)
    upright = []
    for name in ("a", "b"):
        out = tmp_path / f"{name}_out"
        arguments = ["--outpath", str(out), "--labels", str(tmp_path / name), "--size", "32", "--every", "2"]
        assert MakePhantom.main([*arguments, "--jobs", "1"]) == 0
        case = out / "case_00001"
        upright.append([nib.as_closest_canonical(nib.load(case / f"{n}.nii.gz")) for n in ("imaging", "segmentation")])
    for first, second in zip(*upright, strict=True):
        assert np.array_equal(np.asanyarray(first.dataobj), np.asanyarray(second.dataobj))
        assert np.allclose(first.affine, second.affine, atol=1e-4)


def test_a_coarser_grid_lies_over_the_label_it_came_from(tmp_path):
    # 48 -> 16 columns of 21 mm and 24 -> 12 slices of 10 mm; centers move by (3 - 1) / 2 = 1 voxel, 1 / 2 slice.
    save_label(tmp_path / "in" / "case_00000", drawn_label())
    arguments = ["--outpath", str(tmp_path / "out"), "--labels", str(tmp_path / "in"), "--size", "16"]
    assert MakePhantom.main([*arguments, "--slice_spacing", "10", "--jobs", "1"]) == 0
    made = nib.load(tmp_path / "out" / "case_00000" / "segmentation.nii.gz")
    assert made.shape == (12, 16, 16)
    expected = [[0, 0, -21.0, -7], [0, -21, 0, -7], [-10, 0, 0, -2.5], [0, 0, 0, 1]]
    assert np.allclose(made.affine, expected, atol=1e-5)


def test_reduction_counts_by_area_and_takes_the_largest_part():
    label = np.zeros((2, 40, 40), np.uint8)
    label[:, :20] = 1
    label[:, 20:28, :5] = 2
    # 40 -> 16 is 2.5 voxels a side. Row 8 covers 20 to 22.5: column 0 all tumor, column 2 (5 to 7.5) all background.
    reduction = LabelReduction(label, (1.0, 2.0, 2.0), 16, 2)
    assert reduction.shape == (1, 16, 16) and reduction.spacing == (2.0, 5.0, 5.0)
    fractions = reduction.all_fractions()
    assert np.allclose(fractions[:, 0, 8, 0], [0, 1, 0]) and np.allclose(fractions[:, 0, 8, 2], 0)
    # Row 11 covers 27.5 to 30, of which 27.5 to 28 is tumor: 0.5 / 2.5 = 0.2.
    assert np.allclose(fractions[:, 0, 11, 0], [0, 0.2, 0], atol=1e-6)
    assert reduction.label()[0, :, 0].tolist() == [1] * 8 + [2] * 3 + [0] * 5
    assert np.isclose(fractions[1].sum() * 25 * 2, 2 * 8 * 5 * 4)  # the volume of the tumor stays: mm3


def test_the_image_around_a_label_shows_its_kidneys_and_a_spine_between_them():
    phantom = render_around(drawn_label(), (5.0, 7.0, 7.0), 0, 0)
    inside = phantom.image[phantom.label == 1]
    around = phantom.image[10:14, 21:28, 6:9]  # outside the right kidney's outer side: fat or wall
    assert np.median(inside) > 80 > np.median(around)
    bone = np.argwhere(phantom.image[8:16, :, 20:28] > 200)
    assert len(bone) > 20 and bone[:, 1].mean() > 24


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (np.zeros((4, 32, 32), np.uint8), "no kidney"),
        (np.full((4, 32, 32), 7, np.uint8), "only 0, 1 kidney"),
        (np.full((4, 32, 32), 0.5), "not class numbers"),
        (np.ones((32, 32), np.uint8), "not a volume"),
    ],
)
def test_a_label_that_is_no_kidney_volume_is_refused(label, message):
    with pytest.raises(ValueError, match=message):
        render_around(label, (1.0, 1.0, 1.0), 0, 0)


def test_a_bad_label_file_is_named_the_rest_is_made_and_the_exit_code_is_1(tmp_path, capsys):
    for number in range(3):
        save_label(tmp_path / "in" / f"case_{number:05d}", drawn_label((12, 48, 48)))
    truncated = tmp_path / "in" / "case_00001" / "segmentation.nii.gz"
    truncated.write_bytes(truncated.read_bytes()[:-200])
    garbage = tmp_path / "in" / "case_00002" / "segmentation.nii.gz"
    garbage.write_bytes(gzip.compress(b"not a volume"))
    arguments = ["--outpath", str(tmp_path / "out"), "--labels", str(tmp_path / "in"), "--size", "24", "--jobs", "1"]
    assert MakePhantom.main(arguments) == 1
    said = capsys.readouterr().out
    assert "1 of 3 cases" in said and "bad: case_00001" in said and "bad: case_00002" in said
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["case_00000", "kits.json"]


def test_renderings_of_a_label_stay_in_one_split_and_differ(tmp_path):
    labels, out = tmp_path / "labels", tmp_path / "out"
    for number in range(4):
        write_kits_case(labels, f"case_{number:05d}", draw_phantom(0, number, 6, 32))
    flags = ["--labels", str(labels), "--outpath", str(out), "--jobs", "1"]
    assert MakePhantom.main([*flags, "--repeats", "2", "--split", "0.5", "0.25", "0.25"]) == 0
    split = json.loads((out / "split.json").read_text())
    assert {name: len(members) for name, members in split.items()} == {"train": 4, "val": 1, "test": 1}
    once, again = split["train"][:2], split["train"][2:]
    assert again == [name.replace("case_00", "case_01") for name in once]
    image = {name: np.asarray(nib.load(out / name / "imaging.nii.gz").dataobj) for name in (once[0], again[0])}
    label = {name: np.asarray(nib.load(out / name / "segmentation.nii.gz").dataobj) for name in (once[0], again[0])}
    assert np.array_equal(label[once[0]], label[again[0]])
    assert not np.array_equal(image[once[0]], image[again[0]])
