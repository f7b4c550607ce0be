"""A DICOM series as a volume on its own grid: every slice where ImagePositionPatient says it lies.

SliceThickness is not read: slices may overlap or leave gaps. Slices that form no regular grid (gantry tilt, missing
slices, two series in one folder) are refused, because a volume made of them would be distorted.
"""

import locale
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from nibabel.affines import from_matvec

from datasets.volumes.dicom_files import SeriesFiles
from datasets.volumes.nifti import Header, UnreadableVolumeError, grid_header
from datasets.volumes.reading import Image, gather

if TYPE_CHECKING:
    from SimpleITK import ImageFileReader

POSITION, ORIENTATION, PIXEL_SPACING = "0020|0032", "0020|0037", "0028|0030"
SERIES, MODALITY = "0020|000e", "0008|0060"
GAP_TOLERANCE, ROUNDED_MM = 0.1, 0.1  # of the spacing; positions are written with as little as one decimal
ONE_SERIES = "put the slices of one series into a folder of their own"
ONE_FRAME = "convert it to NIfTI (dcm2niix), or export it as one file a slice"


@contextmanager
def keep_locale() -> Iterator[None]:
    """Puts the locale back that ITK's DICOM code sets to C: text files would be read as ASCII from then on."""
    before = locale.setlocale(locale.LC_ALL)
    try:
        yield
    finally:
        locale.setlocale(locale.LC_ALL, before)


@dataclass(frozen=True)
class Series:
    """A series of parallel, evenly spaced slices; `files` run along the normal of the slices.

    As ITK has them: `size` (columns, rows, slices), `origin` and `spacing` in mm, `direction` (3, 3) with the axes as
    its columns, all in LPS coordinates.
    """

    folder: Path
    files: tuple[Path, ...]
    size: tuple[int, int, int]
    origin: tuple[float, float, float]
    spacing: tuple[float, float, float]
    direction: np.ndarray
    modality: str

    @property
    def header(self) -> Header:
        """The grid as NIfTI has it: shape (columns, rows, slices), affine to RAS."""
        to_ras = np.diag([-1.0, -1.0, 1.0])
        affine = from_matvec(to_ras @ self.direction * self.spacing, to_ras @ self.origin)
        return grid_header(self.size, affine)


@dataclass(frozen=True)
class _Slice:
    file: Path
    series: str
    modality: str
    size: tuple[int, int]
    pixel_spacing: tuple[float, float]
    direction: tuple[float, ...]
    origin: np.ndarray


@keep_locale()
def open_series(found: SeriesFiles) -> Series:
    """Read the headers of a series, not its pixels.

    Raises UnreadableVolumeError for files that may be slices and cannot be read, for several series in one, and for
    slices that do not make a regular grid.
    """
    if found.doubts:
        first, more = found.doubts[0], len(found.doubts) - 1
        what = f"{first.what}, it may be a slice" + (f" (and {more} more like it)" if more else "")
        raise UnreadableVolumeError(first.file, what, first.remedy)
    slices = [_read_header(file) for file in sorted(found.files)]
    _refuse_mixture(found.folder, slices)
    first = slices[0]
    normal = np.reshape(first.direction, (3, 3))[:, 2]
    slices.sort(key=lambda part: float(part.origin @ normal))
    spacing = _slice_spacing(found.folder, slices, normal)
    return Series(
        folder=found.folder,
        files=tuple(part.file for part in slices),
        size=(*first.size, len(slices)),
        origin=tuple(float(value) for value in slices[0].origin),
        spacing=(*first.pixel_spacing, spacing),
        direction=np.reshape(first.direction, (3, 3)),
        modality=first.modality,
    )


def _reader(file: Path) -> "ImageFileReader":
    from SimpleITK import ImageFileReader

    reader = ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(file))
    return reader


def _unreadable(file: Path, error: RuntimeError) -> UnreadableVolumeError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    what = re.sub(r"ITK ERROR: \w+\(\w+\): ", "", lines[-1])  # with an address in memory
    return UnreadableVolumeError(file, f"unreadable DICOM ({what[:120]})", "export the series again")


def _read_header(file: Path) -> _Slice:
    reader = _reader(file)
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise _unreadable(file, error) from None

    def value(tag: str) -> str:
        return reader.GetMetaData(tag).strip() if reader.HasMetaDataKey(tag) else ""

    size = reader.GetSize()
    for tag, name in (
        (POSITION, "ImagePositionPatient"),
        (ORIENTATION, "ImageOrientationPatient"),
        (PIXEL_SPACING, "PixelSpacing"),
    ):
        if not value(tag):
            if len(size) > 2 and size[2] > 1:
                raise UnreadableVolumeError(file, "several frames in one file", ONE_FRAME)
            what = f"no {name}, so it is not a slice of a volume"
            raise UnreadableVolumeError(file, what, "give the slices that were acquired, and move this file away")
    if len(size) > 2 and size[2] > 1:
        raise UnreadableVolumeError(file, f"{size[2]} frames in one file", ONE_FRAME)
    if reader.GetNumberOfComponents() != 1:
        raise UnreadableVolumeError(file, "a color image", "give the gray images that were acquired")
    direction, spacing, origin = reader.GetDirection(), reader.GetSpacing(), np.array(reader.GetOrigin())
    turned = np.reshape(direction, (3, 3))
    if not (np.isfinite(origin).all() and min(spacing) > 0 and np.allclose(turned @ turned.T, np.eye(3), atol=1e-3)):
        raise UnreadableVolumeError(file, "its position, orientation or pixel spacing is damaged", "export it again")
    return _Slice(file, value(SERIES), value(MODALITY), tuple(size[:2]), tuple(spacing[:2]), direction, origin)


def _refuse_mixture(folder: Path, slices: list[_Slice]) -> None:
    """Raise where the files are not the slices of one series."""
    series = Counter(part.series for part in slices)
    if len(series) > 1:
        counts = ", ".join(str(count) for count in sorted(series.values(), reverse=True)[:5])
        raise UnreadableVolumeError(folder, f"{len(series)} series mixed ({counts} slices)", ONE_SERIES)
    first = slices[0]
    for part in slices[1:]:
        for name, ours, theirs in (
            ("size", first.size, part.size),
            ("pixel spacing", first.pixel_spacing, part.pixel_spacing),
            ("orientation", first.direction, part.direction),
            ("modality", first.modality, part.modality),
        ):
            same = ours == theirs if isinstance(ours, str) else np.allclose(ours, theirs, rtol=1e-4, atol=1e-4)
            if not same:
                what = f"slices of different {name} mixed ({_names(folder, first, part)})"
                raise UnreadableVolumeError(folder, what, ONE_SERIES)
    if len(slices) < 2:
        what = "one slice only, its spacing cannot be known"
        raise UnreadableVolumeError(folder, what, "give the whole series")


def _names(folder: Path, first: _Slice, second: _Slice) -> str:
    return f"{first.file.relative_to(folder)} and {second.file.relative_to(folder)}"


def _slice_spacing(folder: Path, slices: list[_Slice], normal: np.ndarray) -> float:
    """mm between neighboring slices along the normal; raise where they are not evenly stacked."""
    origins = np.stack([part.origin for part in slices])
    places = origins @ normal
    gaps = np.diff(places)
    usual = float(np.sort(gaps)[(len(gaps) - 1) // 2])
    narrow = int(np.argmin(gaps))
    if gaps[narrow] <= max(GAP_TOLERANCE * usual, 1e-4):
        what = f"two slices at one position ({_names(folder, *slices[narrow : narrow + 2])})"
        raise UnreadableVolumeError(folder, what, f"keep one of them, or {ONE_SERIES}")
    heights = places - places[0]
    even = np.linspace(0.0, heights[-1], len(places))  # small differences of the same sign add up
    tolerance = max(GAP_TOLERANCE * usual, ROUNDED_MM)
    if np.abs(gaps - usual).max() > tolerance or np.abs(heights - even).max() > tolerance:
        wide = int(np.argmax(gaps))
        missing = round(float(gaps[wide]) / usual) - 1
        names = _names(folder, *slices[wide : wide + 2])
        if missing > 0 and abs(gaps[wide] / usual - missing - 1) <= GAP_TOLERANCE:
            count = f"{missing} slice{'s' * (missing > 1)}"
            raise UnreadableVolumeError(folder, f"{count} missing between {names}", "export the whole series")
        what = f"slices {gaps.min():.3g} to {gaps.max():.3g} mm apart"
        raise UnreadableVolumeError(folder, what, "resample the series to even slices")
    sideways = np.linalg.norm(origins - origins[0] - heights[:, None] * normal, axis=1)
    if sideways.max() > 0.5 * min(slices[0].pixel_spacing):
        far = int(np.argmax(sideways))
        tilt = np.degrees(np.arctan2(sideways[far], heights[far]))
        what = f"gantry tilt of {tilt:.1f} degrees (slices slide {sideways[far]:.3g} mm sideways)"
        raise UnreadableVolumeError(folder, what, "resample the series to a right grid")
    return float(heights[-1]) / (len(slices) - 1)


@keep_locale()
def read_series(series: Series, modality: str) -> Image:
    """Read the pixels as int16 HU (modality "CT") or float32 ("MR"), in file order: (slices, rows, columns).

    Rescale slope and intercept are applied, slice by slice. Raises UnreadableVolumeError for a damaged file.
    """
    array = np.empty(series.size[::-1], np.int16 if modality == "CT" else np.float32)
    return gather(array, _pixels(series, array))


def _pixels(series: Series, array: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    from SimpleITK import GetArrayViewFromImage

    for file, part in zip(series.files, array, strict=True):
        try:
            image = _reader(file).Execute()
        except RuntimeError as error:
            raise _unreadable(file, error) from None
        yield part.reshape(-1), GetArrayViewFromImage(image).reshape(-1)


@keep_locale()
def write_on_series(path: Path, series: Series, labels: np.ndarray) -> None:
    """Write (slices, rows, columns) uint8 as `path` says (.mha) with the origin, spacing and direction of the series.

    MetaImage keeps them in LPS as DICOM has them, in full precision: what overlays the series needs no conversion.
    """
    from SimpleITK import GetImageFromArray, WriteImage

    image = GetImageFromArray(labels)
    image.SetOrigin(series.origin)
    image.SetSpacing(series.spacing)
    image.SetDirection(series.direction.reshape(-1).tolist())
    WriteImage(image, str(path), useCompression=True)
