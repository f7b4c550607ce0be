"""Read NIfTI volumes slab by slab: bounded memory, one pass, checksum and statistics on the way.

An image becomes int16 HU (CT) or float32 (MR), a label becomes uint8, whatever the type on disk; `scl_slope` and
`scl_inter` are applied. Arrays are returned in the order of the file: NIfTI stores the first axis fastest, so a file of
shape (i, j, k) gives a C-contiguous array of shape (k, j, i), and `array.T` is the array nibabel would show.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from isal import isal_zlib

from datasets.volumes.nifti import VolumeStream, parse_header, slabs

INT16 = np.iinfo(np.int16)
PERCENTILE_SAMPLE = 1 << 20
NOT_FINITE = "holds NaN or infinite values"
WHOLE = 1e-3  # as near to a whole number as a label written as float may be
LARGEST_STEP = 0.1  # of a slope that a label may have been stored with
Parts = Iterable[tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Statistics:
    """Intensity statistics of a whole case; p005 and p995 are the 0.5 and 99.5 percentiles."""

    mean: float
    std: float
    p005: float
    p995: float


@dataclass
class Image:
    """A volume in file order, with what was learnt while reading it once.

    `problem` says why the values cannot be used (not finite, too large for float32), else None, and `remedy` what to
    do. `minimum` and `maximum` are those of the file, `clipped` counts the voxels that HU in int16 cannot hold. `half`
    and `integral` say that every value is exact in float16, and a whole number in 0..65535.
    """

    array: np.ndarray
    sha256: str
    minimum: float
    maximum: float
    statistics: Statistics
    half: bool = False
    integral: bool = False
    problem: str | None = None
    remedy: str = ""
    clipped: int = 0
    checksum: int = 0


@dataclass
class Label:
    """A label volume in file order (uint8), the voxels per value, and why it cannot be used (else None).

    rounded: how far the farthest value was from a whole number.
    """

    array: np.ndarray
    sha256: str
    voxels: dict[int, int] = field(default_factory=dict)
    problem: str | None = None
    remedy: str = ""
    rounded: float = 0.0


def read_image(path: Path, modality: str, channel: int = 0) -> Image:
    """Read one channel of an image as int16 HU (modality "CT") or float32 ("MR"), with statistics of the whole case.

    HU that are not whole numbers are rounded, those beyond int16 (metal, padding) clipped. Raises UnreadableVolumeError
    for a damaged file; `Image.problem` says why values cannot be used.
    """
    with VolumeStream(path) as stream:
        header = parse_header(stream)
        array = np.empty(header.shape[2::-1], np.int16 if modality == "CT" else np.float32)
        image = gather(array, slabs(stream, header, array, channel))
        image.sha256 = stream.finish()
    image.checksum = isal_zlib.crc32(image.array)
    return image


def gather(array: np.ndarray, parts: Parts) -> Image:
    """Fill an int16 (HU) or float32 array from (part of it, values for it), with statistics of the whole."""
    return (_gather_hounsfield if array.dtype == np.int16 else _gather_intensity)(array, parts)


def _gather_hounsfield(array: np.ndarray, parts: Parts) -> Image:
    histogram = np.zeros(1 << 16, np.int64)
    low, high, finite, clipped = np.inf, -np.inf, True, 0
    for part, values in parts:
        slab_low, slab_high = float(values.min()), float(values.max())
        if not np.isfinite([slab_low, slab_high]).all():
            finite = False
            continue
        low, high = min(low, slab_low), max(high, slab_high)
        if slab_low < INT16.min or slab_high > INT16.max:
            clipped += int(np.count_nonzero((values < INT16.min) | (values > INT16.max)))
        if values is not part:
            rounded = np.rint(values) if values.dtype.kind == "f" else values
            np.copyto(part, np.clip(rounded, INT16.min, INT16.max), casting="unsafe")
        histogram += np.bincount(part.view(np.uint16), minlength=1 << 16)
    if not finite:
        return _unusable(array, low, high, NOT_FINITE, "write numbers in their place (air is -1000 HU)")
    return Image(array, "", low, high, _histogram_statistics(histogram), integral=True, clipped=clipped)


def _unusable(array: np.ndarray, low: float, high: float, problem: str, remedy: str) -> Image:
    return Image(array, "", float(low), float(high), Statistics(0.0, 0.0, 0.0, 0.0), problem=problem, remedy=remedy)


def _histogram_statistics(histogram: np.ndarray) -> Statistics:
    """Exact statistics from counts indexed by the uint16 view of int16 values."""
    counts = np.roll(histogram, 1 << 15)
    values = np.arange(INT16.min, INT16.max + 1, dtype=np.float64)
    total = counts.sum()
    mean = float((counts * values).sum() / total)
    std = float(np.sqrt((counts * (values - mean) ** 2).sum() / total))
    p005, p995 = values[np.searchsorted(counts.cumsum(), [0.005 * total, 0.995 * total])]
    return Statistics(mean, std, float(p005), float(p995))


def _gather_intensity(array: np.ndarray, parts: Parts) -> Image:
    low, high, total, squares = np.inf, -np.inf, 0.0, 0.0
    half = integral = True
    largest = 0.0
    for part, values in parts:
        if values is not part:
            with np.errstate(over="ignore"):
                np.copyto(part, values, casting="unsafe")
            largest = np.maximum(largest, np.maximum(float(values.max()), -float(values.min())))
        low, high = np.minimum(low, part.min()), np.maximum(high, part.max())  # unlike min(), these keep a NaN
        if not np.isfinite([low, high]).all():
            continue
        wide = part.astype(np.float64)
        total, squares = total + wide.sum(), squares + np.dot(wide, wide)
        integral = integral and low >= 0 and high <= 65535 and bool((part == np.rint(part)).all())
        with np.errstate(over="ignore"):
            half = half and bool((part.astype(np.float16) == part).all())
    if not np.isfinite([low, high]).all():
        if np.isfinite(largest) and largest > np.finfo(np.float32).max:
            return _unusable(array, low, high, f"values up to {largest:g} do not fit in float32", "rescale them")
        return _unusable(array, low, high, NOT_FINITE, "write numbers in their place (such as 0)")
    mean = total / array.size
    sample = array.reshape(-1)[:: max(1, array.size // PERCENTILE_SAMPLE)]
    p005, p995 = np.percentile(sample, [0.5, 99.5])
    statistics = Statistics(mean, max(0.0, squares / array.size - mean**2) ** 0.5, float(p005), float(p995))
    return Image(array, "", float(low), float(high), statistics, half, integral)


def read_label(path: Path) -> Label:
    """Read a label volume as uint8. Raises UnreadableVolumeError; other trouble is said in `Label.problem`."""
    with VolumeStream(path) as stream:
        header = parse_header(stream)
        label = Label(np.empty(header.shape[2::-1], np.uint8), "")
        counts = np.zeros(256, np.int64)
        # a slope leaves values up to half a step from the whole number that was stored
        tolerance = WHOLE + (abs(header.slope) / 2 if header.slope and abs(header.slope) < LARGEST_STEP else 0.0)
        for part, values in slabs(stream, header, label.array, 0):
            if values is not part:
                _take(label, part, values, tolerance)
            if part.any():
                counts += np.bincount(part, minlength=256)
            else:
                counts[0] += len(part)
        label.sha256 = stream.finish()
    label.voxels = {int(value): int(counts[value]) for value in np.flatnonzero(counts)}
    return label


def _take(label: Label, part: np.ndarray, values: np.ndarray, tolerance: float) -> None:
    """Put values, rounded, into their part of a label volume, and check whether they can be labels."""
    low, high = float(values.min()), float(values.max())
    whole = values
    if not np.isfinite([low, high]).all():
        _refuse(label, NOT_FINITE, "write 0 in their place, or what they should be")
    elif values.dtype.kind == "f":
        whole = np.rint(values)
        distance = np.abs(values - whole)
        label.rounded = max(label.rounded, float(distance.max()))
        if distance.max() > tolerance:
            what = f"holds values that are not whole numbers, such as {values[distance > tolerance][0]:g}"
            _refuse(label, what, "write whole label values (resample labels with nearest neighbor, not linearly)")
        low, high = float(whole.min()), float(whole.max())
    if low < 0:
        remedy = "write 0 in their place; no voxel can be left out, if that is what they stand for"
        if low < -255:
            remedy = "is this an image? give its labels"
        _refuse(label, f"holds values below 0 (down to {low:g})", remedy)
    elif high > 255 and np.isfinite(high):
        _refuse(label, f"holds values above 255 (up to {high:g})", "is this a label? else renumber its values")
    with np.errstate(invalid="ignore"):
        np.copyto(part, whole, casting="unsafe")


def _refuse(label: Label, problem: str, remedy: str) -> None:
    if label.problem is None:
        label.problem, label.remedy = problem, remedy
