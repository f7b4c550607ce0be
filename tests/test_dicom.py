"""A DICOM series as a volume: slices where their positions say, and what is no regular grid refused in one line."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from raw_cases import SHARED
from tiny_checkpoints import labels_of, predict, record, thresholds, voxels

from datasets.scan import scan
from datasets.volumes.dicom import Series, open_series, read_series
from datasets.volumes.dicom_files import group_series

__all__ = ["thresholds"]  # a fixture
ROWS, COLUMNS, COUNT = 10, 12, 5
AXIAL = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))


def hounsfield() -> np.ndarray:
    return np.random.default_rng(7).integers(-1000, 400, (COUNT, ROWS, COLUMNS)).astype(np.int16)


def find_series(folder: Path) -> Series:
    (found,) = group_series(scan(folder))
    return open_series(found)


def turned(degrees: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Row and column directions of slices turned about an oblique axis."""
    axis = np.array([3.0, -1.0, 2.0]) / 14**0.5
    cross, angle = np.cross(np.eye(3), axis), np.deg2rad(degrees)
    turn = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    return tuple(turn[:, 0]), tuple(turn[:, 1])


def write_slice(file: Path, pixels: np.ndarray, position, directions=AXIAL, spacing=(0.8, 0.6), tags=None) -> None:
    """A CT slice as a scanner writes it: HU + 1024 and a rescale intercept. spacing: mm between columns, rows."""
    image = sitk.GetImageFromArray(pixels[None].astype(np.int16))
    image.SetSpacing((*spacing, 1.0))
    values = {
        "0008|0060": "CT",
        "0008|0016": "1.2.840.10008.5.1.4.1.1.2",
        "0008|0018": f"1.2.3.{abs(hash(file.name)) % 10**8}",
        "0018|0050": "3",  # SliceThickness: not the distance of the slices
        "0020|000d": "1.2.3.4",
        "0020|000e": "1.2.3.4.5",
        "0020|0032": "\\".join(f"{value:.10g}" for value in position),
        "0020|0037": "\\".join(f"{value:.10g}" for value in np.ravel(directions)),
        "0028|1052": "-1024",
        "0028|1053": "1",
    }
    for tag, value in (values | (tags or {})).items():
        image.SetMetaData(tag, value)
    writer = sitk.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.KeepOriginalImageUIDOn()
    writer.SetFileName(str(file))
    file.parent.mkdir(parents=True, exist_ok=True)
    writer.Execute(image)


def write_series(
    folder: Path, gap: float = 2.0, directions=AXIAL, places=range(COUNT), shift=(0.0, 0.0, 0.0), tags=None
):
    """Slices `gap` mm apart along their normal, each `shift` beside the one before; names in no order."""
    normal = np.cross(*directions)
    for number, place in enumerate(places):
        position = np.array([-20.0, 30.0, 100.0]) + place * (gap * normal + np.array(shift))
        write_slice(folder / f"{(number * 3) % 11}.dcm", hounsfield()[number % COUNT], position, directions, tags=tags)
    return folder


@pytest.mark.parametrize(
    "directions", [AXIAL, turned(20), turned(75), ((-1, 0, 0), (0, -1, 0)), ((0, 1, 0), (0, 0, -1))]
)
def test_the_grid_is_that_of_the_positions_and_the_pixels_are_hounsfield_units(tmp_path, directions):
    series = find_series(write_series(tmp_path / "in", directions=directions))
    image = read_series(series, "CT")
    assert np.array_equal(image.array, hounsfield())
    assert series.spacing == pytest.approx((0.8, 0.6, 2.0))
    assert series.header.shape == (COLUMNS, ROWS, COUNT)
    # voxel (column 3, row 4, slice 2) lies 3 columns along the row, 4 rows along the column, 2 slices along the normal
    row, column = np.array(directions, float)
    lps = np.array([-20.0, 30.0, 100.0]) + 3 * 0.8 * row + 4 * 0.6 * column + 2 * 2.0 * np.cross(row, column)
    assert (series.header.affine @ [3, 4, 2, 1])[:3] == pytest.approx(lps * [-1, -1, 1], abs=1e-6)


def test_labels_lie_on_the_series_as_itk_reads_it(tmp_path, thresholds):
    folder = write_series(tmp_path / "series", directions=turned(15))
    assert predict(thresholds, folder, tmp_path / "out", "--mha") == 0
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))
    source, copy = sitk.ReadImage(names), sitk.ReadImage(str(tmp_path / "out/series.mha"))
    assert np.array_equal(sitk.GetArrayFromImage(copy), labels_of(sitk.GetArrayFromImage(source)))
    assert copy.GetPixelID() == sitk.sitkUInt8
    assert copy.GetOrigin() == source.GetOrigin() and copy.GetDirection() == source.GetDirection()
    assert copy.GetSpacing() == pytest.approx(source.GetSpacing(), abs=1e-9)
    nifti = sitk.ReadImage(str(tmp_path / "out/series.nii.gz"))  # the same grid, told to ITK by way of RAS
    assert nifti.GetOrigin() == pytest.approx(source.GetOrigin(), abs=1e-4)
    assert nifti.GetDirection() == pytest.approx(source.GetDirection(), abs=1e-5)
    assert nifti.GetSpacing() == pytest.approx(source.GetSpacing(), abs=1e-5)
    assert np.array_equal(sitk.GetArrayFromImage(nifti), sitk.GetArrayFromImage(copy))
    header = nibabel.load(tmp_path / "out/series.nii.gz").header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (1, 1)
    assert header.get_xyzt_units()[0] == "mm"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"places": [0, 1, 3, 4, 5]}, "1 slice missing between"),
        ({"places": [0, 1, 2, 6, 7]}, "3 slices missing between"),
        ({"places": [0, 1, 1, 2, 3]}, "two slices at one position"),
        ({"places": [0, 1, 2.4, 3, 4]}, "mm apart"),
        ({"shift": (0.0, 0.5, 0.0)}, "gantry tilt of 14.0 degrees"),  # atan(0.5 / 2)
        ({"places": [0]}, "one slice only"),
        ({"places": [0, 1.09, 2.18, 3.27, 4.36, 5.36, 6.36, 7.36]}, "2 to 2.18 mm apart"),  # no gap alone stands out
        ({"tags": {"0008|0060": "MR"}}, "the series is MR, the checkpoint learnt CT"),
        ({"tags": {"0008|0060": "PT"}}, "the series is PT, the checkpoint learnt CT"),
    ],
)
def test_what_makes_no_regular_grid_is_refused(tmp_path, thresholds, capsys, changes, said):
    folder = write_series(tmp_path / "series", **changes)
    assert predict(thresholds, folder, tmp_path / "out") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(str(folder)) and said in line
    assert not list(tmp_path.glob("out/*"))


def test_a_tilt_that_moves_no_slice_by_half_a_pixel_is_no_tilt(tmp_path):
    # the last of 5 slices is moved by 4 x 0.07 = 0.28 mm, a pixel is 0.6 mm
    assert find_series(write_series(tmp_path, shift=(0.0, 0.07, 0.0))).spacing[2] == pytest.approx(2.0)


def test_positions_rounded_to_a_tenth_are_even(tmp_path):
    for number in range(COUNT):
        write_slice(tmp_path / f"{number}.dcm", hounsfield()[number], (0, 0, round(0.625 * number, 1)))
    assert find_series(tmp_path).spacing[2] == pytest.approx(0.625)  # 0, 0.6, 1.2, 1.9, 2.5


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tags": {"0020|000e": "1.2.9"}}, "2 series mixed (5, 1 slices)"),
        ({"spacing": (0.5, 0.5)}, "different pixel spacing"),
        ({"directions": turned(30)}, "different orientation"),
        ({"directions": turned(90), "tags": {"0020|000e": "1.2.9"}}, "2 series mixed (5, 1 slices)"),  # a localizer
        ({"pixels": np.zeros((ROWS, 8))}, "different size"),
    ],
)
def test_a_slice_of_something_else_is_noticed(tmp_path, thresholds, capsys, changes, said):
    folder = write_series(tmp_path / "series")
    arguments = {"pixels": hounsfield()[0], "position": (-20, 30, 110)} | changes
    write_slice(folder / "other.dcm", **arguments)
    assert predict(thresholds, folder, tmp_path / "out") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line and "folder of their own" in line


def test_several_frames_in_one_file_are_refused(tmp_path, thresholds, capsys):
    image = sitk.GetImageFromArray(hounsfield())
    image.SetMetaData("0008|0060", "CT")
    (tmp_path / "series").mkdir()
    sitk.WriteImage(image, str(tmp_path / "series/all.dcm"))
    assert predict(thresholds, tmp_path / "series", tmp_path / "out") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "all.dcm: " in line and "frames in one file" in line
    assert not list(tmp_path.glob("out/*"))


def test_a_damaged_slice_is_named(tmp_path, thresholds, capsys):
    folder = write_series(tmp_path / "series")
    whole = (folder / "3.dcm").read_bytes()
    for content in (whole[:200], whole[:-100]):
        (folder / "3.dcm").write_bytes(content)
        assert predict(thresholds, folder, tmp_path / "out") == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert "3.dcm: " in line and "(0x" not in line
        assert not list(tmp_path.glob("out/*"))


def test_files_that_are_no_dicom_are_left_out_and_noted(tmp_path, thresholds):
    folder = write_series(tmp_path / "series")
    (folder / "README.txt").write_text("about the series")
    (folder / "DICOMDIR").write_bytes((folder / "3.dcm").read_bytes())
    assert predict(thresholds, folder, tmp_path / "out") == 0
    (note,) = record(tmp_path / "out")["series"]["notes"]
    assert note == "left out, not slices of the series: DICOMDIR (DICOMDIR), README.txt"
    assert np.array_equal(voxels(tmp_path / "out/series.nii.gz").T, labels_of(hounsfield()))


def test_a_folder_of_series_gives_a_case_each_and_one_with_both_kinds_none(tmp_path, thresholds, capsys):
    for name in ("first", "second"):
        write_series(tmp_path / "in" / name)
    assert predict(thresholds, tmp_path / "in", tmp_path / "out", "--mha") == 0
    assert sorted(record(tmp_path / "out")) == ["first", "second"]
    (tmp_path / "in/first/x.nii.gz").write_bytes(b"")
    assert predict(thresholds, tmp_path / "in/first", tmp_path / "out") == 2
    assert "holds a DICOM series and x.nii.gz" in capsys.readouterr().err


def test_a_real_series_lies_where_its_labels_lie(tmp_path, thresholds):
    if not SHARED.is_dir():
        pytest.skip("no real CT at ../shared/data/totalseg_example")
    folder = SHARED / "example_ct_dicom"
    assert predict(thresholds, folder, tmp_path / "out", "--mha") == 0
    source = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
    copy = sitk.ReadImage(str(tmp_path / "out/example_ct_dicom.mha"))
    for get in ("GetOrigin", "GetSpacing", "GetDirection", "GetSize"):
        assert getattr(copy, get)() == getattr(source, get)()
    assert source.GetSpacing()[2] == 2.0  # SliceThickness says 3
    assert np.array_equal(sitk.GetArrayFromImage(copy), labels_of(sitk.GetArrayFromImage(source)))
    ours = nibabel.load(tmp_path / "out/example_ct_dicom.nii.gz")
    labels = nibabel.load(SHARED / "example_seg_dicom.nii.gz")  # the same grid with its rows the other way round
    assert np.allclose(ours.affine @ [0, 511, 0, 1], labels.affine @ [0, 0, 0, 1])
    assert np.allclose(nibabel.affines.voxel_sizes(ours.affine), nibabel.affines.voxel_sizes(labels.affine))
