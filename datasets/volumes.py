"""Read NIfTI volumes slab by slab: bounded memory, one pass, checksum and statistics on the way.

An image becomes int16 HU (CT) or float32 (MR), a label becomes uint8, whatever the type on disk; `scl_slope` and
`scl_inter` are applied. Arrays are returned in the order of the file: NIfTI stores the first axis fastest, so a file of
shape (i, j, k) gives a C-contiguous array of shape (k, j, i), and `array.T` is the array nibabel would show.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import nibabel
import numpy as np
from isal import igzip, isal_zlib

SLAB_VOXELS = 1 << 19
INT16 = np.iinfo(np.int16)
PERCENTILE_SAMPLE = 1 << 20


class UnreadableVolumeError(ValueError):
    """A file that is not a whole NIfTI volume; `what` is wrong with it and the `remedy`."""

    def __init__(self, path: Path, what: str, remedy: str):
        super().__init__(f"{path}: {what}: {remedy}")
        self.path, self.what, self.remedy = path, what, remedy

    def __reduce__(self) -> tuple:
        return type(self), (self.path, self.what, self.remedy)


@dataclass(frozen=True)
class Header:
    """What a NIfTI header says about the grid. `spacing` is in mm, in the file's axis order, as is `shape`."""

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    affine: np.ndarray
    sform_code: int
    qform_code: int
    qform: np.ndarray | None
    dtype: np.dtype
    slope: float | None
    inter: float | None
    offset: int


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


class _HashingFile:
    """The bytes of a file, hashed as they pass: the checksum of a source costs no second read."""

    def __init__(self, path: Path):
        self._file = path.open("rb", buffering=0)
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.digest.update(data)
        return data

    def readinto(self, buffer: memoryview) -> int:
        count = self._file.readinto(buffer)
        self.digest.update(memoryview(buffer)[:count])
        return count

    def seekable(self) -> bool:
        return False

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()


class _Stream:
    """Sequential reader of a plain or gzip-compressed file (told apart by content, not by name)."""

    def __init__(self, path: Path):
        self.path, self.position = path, 0
        try:
            with path.open("rb") as file:
                compressed = file.read(2) == b"\x1f\x8b"
            self._source = _HashingFile(path)
        except OSError as error:
            raise UnreadableVolumeError(path, f"cannot be opened ({error.strerror})", "check path and permissions") from None
        self._reader = igzip.IGzipFile(fileobj=self._source, mode="rb") if compressed else self._source

    def __enter__(self) -> "_Stream":
        return self

    def __exit__(self, *_: object) -> None:
        self._source.close()

    def fill(self, array: np.ndarray) -> None:
        """Fill a contiguous array with the next bytes; raise when the file ends or is damaged."""
        view = memoryview(array.reshape(-1).view(np.uint8))
        done = 0
        while done < len(view):
            try:
                count = self._reader.readinto(view[done:])
            except (OSError, EOFError, isal_zlib.error) as error:
                raise self._damaged(str(error)) from None
            if not count:
                raise self._damaged(f"{len(view) - done} bytes missing")
            done += count
        self.position += done

    def skip(self, count: int) -> None:
        buffer = np.empty(min(max(count, 0), 1 << 20), np.uint8)
        while count > 0:
            self.fill(buffer[:count])
            count -= min(count, len(buffer))

    def finish(self) -> str:
        """Read what is left (this verifies the gzip checksum) and return the SHA-256 of the file as it lies on disk."""
        try:
            while self._reader.read(1 << 20):
                pass
        except (OSError, EOFError, isal_zlib.error) as error:
            raise self._damaged(str(error)) from None
        return self._source.digest.hexdigest()

    def _damaged(self, detail: str) -> UnreadableVolumeError:
        return UnreadableVolumeError(self.path, f"truncated or damaged ({detail})", "copy or download the file again")


def read_header(path: Path) -> Header:
    """Header of a NIfTI-1 or NIfTI-2 file, plain or compressed. Raises UnreadableVolumeError."""
    with _Stream(path) as stream:
        return _parse_header(stream)


def _parse_header(stream: _Stream) -> Header:
    raw = np.empty(348, np.uint8)
    stream.fill(raw)
    kind = nibabel.Nifti1Header
    if 540 in (int(raw[:4].view("<i4")[0]), int(raw[:4].view(">i4")[0])):
        rest = np.empty(192, np.uint8)
        stream.fill(rest)
        raw, kind = np.concatenate([raw, rest]), nibabel.Nifti2Header
    try:
        header = kind(binaryblock=raw.tobytes(), check=False)
        dtype = header.get_data_dtype()
        slope, inter = header.get_slope_inter()
        qform, qform_code = header.get_qform(coded=True)
        sform_code = int(header["sform_code"])
        shape = tuple(int(size) for size in header.get_data_shape())
        affine, spacing = header.get_best_affine(), tuple(float(zoom) for zoom in header.get_zooms()[:3])
        magic, offset = bytes(header["magic"])[:3], int(header["vox_offset"])
    except (ValueError, KeyError, nibabel.spatialimages.HeaderDataError) as error:
        raise UnreadableVolumeError(stream.path, f"not a NIfTI header ({error})", "give a .nii or .nii.gz file") from None
    if not magic.startswith(b"n+"):
        raise UnreadableVolumeError(stream.path, "not a single-file NIfTI", "give a .nii or .nii.gz file")
    if dtype.kind not in "iuf":
        raise UnreadableVolumeError(stream.path, f"voxels of type {dtype}", "save it as one number per voxel")
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) < 3 or len(shape) > 4 or min(shape) < 1 or np.prod(shape, dtype=float) > 2**33:
        raise UnreadableVolumeError(stream.path, f"shape {shape}", "give a three-dimensional volume")
    return Header(
        shape=shape,
        spacing=spacing,
        affine=np.asarray(affine, np.float64),
        sform_code=sform_code,
        qform_code=int(qform_code),
        qform=None if qform is None else np.asarray(qform, np.float64),
        dtype=dtype,
        slope=None if slope in (None, 1) and inter in (None, 0) else slope,
        inter=inter,
        offset=max(offset, len(raw)),
    )


def _slabs(stream: _Stream, header: Header, out: np.ndarray, channel: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (part of `out`, its values as the file means them); the same array when nothing had to be converted."""
    voxels = int(np.prod(header.shape[:3]))
    stream.skip(header.offset - stream.position + channel * voxels * header.dtype.itemsize)
    flat = out.reshape(-1)
    direct = header.dtype == out.dtype and header.slope is None
    buffer = None if direct else np.empty(min(SLAB_VOXELS, voxels), header.dtype)
    for start in range(0, voxels, SLAB_VOXELS):
        part = flat[start : start + SLAB_VOXELS]
        values = part if direct else buffer[: len(part)]
        stream.fill(values)
        if header.slope is not None:
            values = values * np.float64(header.slope) + np.float64(header.inter or 0.0)
        yield part, values




def read_image(path: Path, modality: str, channel: int = 0) -> Image:
    """Read one channel of an image as int16 HU (modality "CT") or float32 ("MR"), with statistics of the whole case.

    HU that are not whole numbers are rounded. Raises UnreadableVolumeError for a damaged file; values that cannot be
    used are told in `Image.problem`.
    """
    with _Stream(path) as stream:
        header = _parse_header(stream)
        read = _read_hounsfield if modality == "CT" else _read_intensity
        image = read(stream, header, channel)
        image.sha256 = stream.finish()
    image.checksum = isal_zlib.crc32(image.array)
    return image


def _read_hounsfield(stream: _Stream, header: Header, channel: int) -> Image:
    array = np.empty(header.shape[2::-1], np.int16)
    histogram = np.zeros(1 << 16, np.int64)
    low, high, finite = np.inf, -np.inf, True
    for part, values in _slabs(stream, header, array, channel):
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


def _read_intensity(stream: _Stream, header: Header, channel: int) -> Image:
    array = np.empty(header.shape[2::-1], np.float32)
    low, high, total, squares = np.inf, -np.inf, 0.0, 0.0
    half = integral = True
    for part, values in _slabs(stream, header, array, channel):
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
    with _Stream(path) as stream:
        header = _parse_header(stream)
        label = Label(np.empty(header.shape[2::-1], np.uint8), "")
        counts = np.zeros(256, np.int64)
        for part, values in _slabs(stream, header, label.array, 0):
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
