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

from datasets.nifti import VolumeStream, parse_header, slabs

INT16 = np.iinfo(np.int16)
PERCENTILE_SAMPLE = 1 << 20
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

    `problem` says why the values cannot be used (not finite, outside int16), else None. `half` and `integral` say that
    every value is exact in float16, and a whole number in 0..65535.
    """

    array: np.ndarray
    sha256: str
    minimum: float
    maximum: float
    statistics: Statistics
    half: bool = False
    integral: bool = False
    problem: str | None = None
    checksum: int = 0


@dataclass
class Label:
    """A label volume in file order (uint8), the voxels per value, and why it cannot be used (else None)."""

    array: np.ndarray
    sha256: str
    voxels: dict[int, int] = field(default_factory=dict)
    problem: str | None = None


def read_image(path: Path, modality: str, channel: int = 0) -> Image:
    """Read one channel of an image as int16 HU (modality "CT") or float32 ("MR"), with statistics of the whole case.

    HU that are not whole numbers are rounded. Raises UnreadableVolumeError for a damaged file; values that cannot be
    used are told in `Image.problem`.
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
    low, high, finite = np.inf, -np.inf, True
    for part, values in parts:
        slab_low, slab_high = float(values.min()), float(values.max())
        if not np.isfinite([slab_low, slab_high]).all():
            finite = False
            continue
        low, high = min(low, slab_low), max(high, slab_high)
        if values is not part:
            rounded = np.rint(values) if values.dtype.kind == "f" else values
            np.copyto(part, np.clip(rounded, INT16.min, INT16.max), casting="unsafe")
        histogram += np.bincount(part.view(np.uint16), minlength=1 << 16)
    problem = None
    if not finite:
        problem = "holds NaN or infinite values"
    elif low < INT16.min or high > INT16.max:
        problem = f"values {low:g} to {high:g} do not fit in int16"
    statistics = _histogram_statistics(histogram) if problem is None else Statistics(0.0, 0.0, 0.0, 0.0)
    return Image(array, "", low, high, statistics, integral=True, problem=problem)


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
    for part, values in parts:
        if values is not part:
            with np.errstate(over="ignore"):
                np.copyto(part, values, casting="unsafe")
        low, high = np.minimum(low, part.min()), np.maximum(high, part.max())  # unlike min(), these keep a NaN
        if not np.isfinite([low, high]).all():
            continue
        wide = part.astype(np.float64)
        total, squares = total + wide.sum(), squares + np.dot(wide, wide)
        integral = integral and low >= 0 and high <= 65535 and bool((part == np.rint(part)).all())
        with np.errstate(over="ignore"):
            half = half and bool((part.astype(np.float16) == part).all())
    if not np.isfinite([low, high]).all():
        problem = "holds NaN or infinite values"
        return Image(array, "", float(low), float(high), Statistics(0.0, 0.0, 0.0, 0.0), problem=problem)
    mean = total / array.size
    sample = array.reshape(-1)[:: max(1, array.size // PERCENTILE_SAMPLE)]
    p005, p995 = np.percentile(sample, [0.5, 99.5])
    statistics = Statistics(mean, max(0.0, squares / array.size - mean**2) ** 0.5, float(p005), float(p995))
    return Image(array, "", float(low), float(high), statistics, half, integral)


def read_label(path: Path) -> Label:
    """Read a label volume as uint8. Raises UnreadableVolumeError; other trouble is told in `Label.problem`."""
    with VolumeStream(path) as stream:
        header = parse_header(stream)
        label = Label(np.empty(header.shape[2::-1], np.uint8), "")
        counts = np.zeros(256, np.int64)
        for part, values in slabs(stream, header, label.array, 0):
            if values is not part:
                label.problem = label.problem or _label_problem(values)
                with np.errstate(invalid="ignore"):
                    np.copyto(part, values, casting="unsafe")
            if part.any():
                counts += np.bincount(part, minlength=256)
            else:
                counts[0] += len(part)
        label.sha256 = stream.finish()
    label.voxels = {int(value): int(counts[value]) for value in np.flatnonzero(counts)}
    return label


def _label_problem(values: np.ndarray) -> str | None:
    low, high = values.min(), values.max()
    if not np.isfinite([low, high]).all():
        return "holds NaN or infinite values"
    if values.dtype.kind == "f" and (fractions := values[values != np.rint(values)]).size:
        return f"holds values that are not whole numbers, such as {fractions[0]:g}"
    if low < 0 or high > 255:
        return f"holds values outside 0..255 ({low:g} to {high:g})"
    return None
