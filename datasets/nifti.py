"""NIfTI files as a stream: header and voxels slab by slab, in one pass, plain or gzip, hashed as they are read.

No more is read than the header declares, and nothing is made room for that the file cannot hold.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG

import nibabel
import numpy as np
from isal import igzip, isal_zlib

from datasets.geometry import spacing_of

SLAB_VOXELS = 1 << 19
DEFLATE_RATIO = 1032  # one byte of a gzip file holds no more
TRAILING_BYTES = 1 << 20  # what may follow the voxels
GZIP = b"\x1f\x8b"
STAND_INS = (  # what lies in the place of a file, by how it begins
    (b"version https://git-lfs", "is a git-lfs pointer, the volume was not fetched", "fetch it with git lfs pull"),
    (b"/annex/objects/", "is a git-annex pointer, the volume was not fetched", "fetch it with git annex get"),
    (b"<!doctype html", "is a web page, not a volume", "download the file again; a login may be needed"),
    (b"<html", "is a web page, not a volume", "download the file again; a login may be needed"),
)
GRID_FIELDS = (
    *("dim", "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)


class UnreadableVolumeError(ValueError):
    """A file that is not a whole NIfTI volume; `what` is wrong with it and the `remedy`."""

    def __init__(self, path: Path, what: str, remedy: str):
        super().__init__(f"{path}: {what}: {remedy}")
        self.path, self.what, self.remedy = path, what, remedy

    def __reduce__(self) -> tuple:
        return type(self), (self.path, self.what, self.remedy)


@dataclass(frozen=True)
class Header:
    """What a NIfTI header says about the grid, in the file's axis order.

    affine: voxel -> RAS mm; the sform where its code is above 0, else the qform, else pixdim and a guess.
    qform: where its code is above 0 and it can be computed, else None. source: the header itself, from which those of
    files on the same grid are made.
    """

    shape: tuple[int, ...]
    affine: np.ndarray
    sform_code: int
    qform_code: int
    qform: np.ndarray | None
    dtype: np.dtype
    slope: float | None
    inter: float | None
    offset: int
    source: nibabel.Nifti1Header

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size in mm by the affine; pixdim may say otherwise."""
        return spacing_of(self.affine)


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


class VolumeStream:
    """Sequential reader of a plain or gzip-compressed file (told apart by content, not by name)."""

    def __init__(self, path: Path):
        self.path, self.position = path, 0
        try:
            status = path.stat()
            if not S_ISREG(status.st_mode):  # to open a named pipe would take forever
                raise UnreadableVolumeError(path, "is no file", "give a .nii or .nii.gz file")
            with path.open("rb") as file:
                self.compressed = file.read(2) == GZIP
            self._most = status.st_size * (DEFLATE_RATIO if self.compressed else 1)
            self._declared = self._most
            self._source = _HashingFile(path)
        except OSError as error:
            raise UnreadableVolumeError(
                path, f"cannot be opened ({error.strerror})", "check path and permissions"
            ) from None
        self._reader = igzip.IGzipFile(fileobj=self._source, mode="rb") if self.compressed else self._source

    def __enter__(self) -> "VolumeStream":
        return self

    def __exit__(self, *_: object) -> None:
        self._source.close()

    def declare(self, size: int) -> None:
        """Say how many bytes, unpacked, the header promises; raise when the file is too short to hold them."""
        if size > self._most:
            raise self._damaged(f"its header declares {size} bytes, the file holds at most {self._most}")
        self._declared = size

    def fill(self, array: np.ndarray) -> None:
        """Fill a contiguous array with the next bytes; raise when the file ends or is damaged."""
        missing = array.nbytes - self._fill(array)
        if missing:
            raise self._damaged(f"{missing} bytes missing")

    def begin(self, size: int) -> np.ndarray:
        """The first bytes; raise where there are fewer, or they are those of what often lies in a volume's place."""
        start = np.zeros(size, np.uint8)
        count = self._fill(start)
        text = start[:64].tobytes().lower()
        if self.compressed and text.startswith(GZIP):
            raise UnreadableVolumeError(self.path, "is compressed twice", "unpack it once (gunzip)")
        for beginning, what, remedy in STAND_INS:
            if text.startswith(beginning):
                raise UnreadableVolumeError(self.path, what, remedy)
        if not count:
            raise UnreadableVolumeError(self.path, "is empty", "copy or download the file again")
        if count < size:
            raise self._damaged(f"{size - count} bytes missing")
        return start

    def _fill(self, array: np.ndarray) -> int:
        """Fill an array as far as the file goes, and return how many bytes that were."""
        view = memoryview(array.reshape(-1).view(np.uint8))
        done = 0
        while done < len(view):
            try:
                count = self._reader.readinto(view[done:])
            except (OSError, EOFError, isal_zlib.error) as error:
                raise self._damaged(str(error)) from None
            if not count:
                break
            done += count
        self.position += done
        return done

    def skip(self, count: int) -> None:
        buffer = np.empty(min(max(count, 0), 1 << 20), np.uint8)
        while count > 0:
            self.fill(buffer[:count])
            count -= min(count, len(buffer))

    def finish(self) -> str:
        """Read what is left (this verifies the gzip checksum) and return the SHA-256 of the file as it lies on disk."""
        try:
            while data := self._reader.read(1 << 20):
                self.position += len(data)
                if self.position > self._declared + TRAILING_BYTES:
                    what = f"goes on after the {self._declared} bytes that its header declares"
                    raise UnreadableVolumeError(self.path, what, "copy or download the file again")
        except (OSError, EOFError, isal_zlib.error) as error:
            raise self._damaged(str(error)) from None
        return self._source.digest.hexdigest()

    def _damaged(self, detail: str) -> UnreadableVolumeError:
        return UnreadableVolumeError(self.path, f"truncated or damaged ({detail})", "copy or download the file again")


def read_header(path: Path) -> Header:
    """Header of a NIfTI-1 or NIfTI-2 file, plain or compressed. Raises UnreadableVolumeError."""
    with VolumeStream(path) as stream:
        return parse_header(stream)


def parse_header(stream: VolumeStream) -> Header:
    raw = stream.begin(348)
    if raw[4:7].tobytes() == b"n+2":
        rest = np.empty(192, np.uint8)
        stream.fill(rest)
        raw, kind = np.concatenate([raw, rest]), nibabel.Nifti2Header
    elif raw[344:347].tobytes() == b"n+1":
        kind = nibabel.Nifti1Header
    else:
        raise UnreadableVolumeError(stream.path, "not a single-file NIfTI", "give a .nii or .nii.gz file")
    header = kind(binaryblock=raw.tobytes(), check=False)
    scaling, shift = float(header["scl_slope"]), float(header["scl_inter"])
    if math.isfinite(scaling) and scaling != 0 and not math.isfinite(shift):
        what = f"scl_slope is {scaling:g} and scl_inter {shift:g}"
        raise UnreadableVolumeError(stream.path, what, "write scl_inter again: what is added to every value, often 0")
    try:
        dtype = header.get_data_dtype()
        slope, inter = header.get_slope_inter()
        shape = tuple(int(size) for size in header.get_data_shape())
        sform_code, qform_code = int(header["sform_code"]), int(header["qform_code"])
        with np.errstate(all="ignore"):  # what is not finite is found by who needs it
            qform = _qform(header) if qform_code > 0 else None
            affine = header.get_sform() if sform_code > 0 else qform
            if affine is None:
                affine = header.get_base_affine() if qform_code <= 0 else np.full((4, 4), np.nan)
        offset = int(header["vox_offset"])
    except (ValueError, KeyError, OverflowError, nibabel.spatialimages.HeaderDataError) as error:
        raise UnreadableVolumeError(stream.path, f"damaged NIfTI header ({error})", "give the original file") from None
    if dtype.kind not in "iuf":
        what = f"voxels are colors ({''.join(dtype.names)})" if dtype.names else f"voxels of type {dtype}"
        raise UnreadableVolumeError(stream.path, what, "save it as one number per voxel")
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) < 3 or len(shape) > 4 or min(shape) < 1 or np.prod(shape, dtype=float) > 2**33:
        raise UnreadableVolumeError(stream.path, f"shape {shape}", "give a three-dimensional volume")
    offset = max(offset, len(raw))
    stream.declare(offset + math.prod(shape) * dtype.itemsize)
    return Header(
        shape=shape,
        affine=np.asarray(affine, np.float64),
        sform_code=sform_code,
        qform_code=qform_code,
        qform=qform,
        dtype=dtype,
        slope=None if slope in (None, 1) and inter in (None, 0) else slope,
        inter=inter,
        offset=offset,
        source=header,
    )


def _qform(header: nibabel.Nifti1Header) -> np.ndarray | None:
    """The qform, or None where its quaternion or pixdim is not finite. A qfac that is not -1 or 1 is taken as 1."""
    whole = header.copy()
    whole["pixdim"][0] = -1 if header["pixdim"][0] == -1 else 1
    whole["pixdim"][1:4] = np.abs(header["pixdim"][1:4])  # as nibabel.load reads it
    try:
        qform = np.asarray(whole.get_qform(), np.float64)
    except ValueError:
        return None  # a quaternion longer than 1
    return qform if np.isfinite(qform).all() else None


def slabs(
    stream: VolumeStream, header: Header, out: np.ndarray, channel: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
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


def grid_header(shape: tuple[int, int, int], affine: np.ndarray) -> Header:
    """Header of a volume that comes from elsewhere. affine: voxel -> RAS mm in the scanner's coordinates (codes 1)."""
    source = nibabel.Nifti1Header()
    source.set_data_shape(shape)
    source.set_qform(affine, 1)
    source.set_sform(affine, 1)
    source.set_xyzt_units("mm")
    return Header(
        shape=shape,
        affine=np.asarray(affine, np.float64),
        sform_code=1,
        qform_code=1,
        qform=source.get_qform(),
        dtype=source.get_data_dtype(),
        slope=None,
        inter=None,
        offset=0,
        source=source,
    )


def write_volume(
    path: Path, header: Header, arrays: Sequence[np.ndarray], dtype: type, channels: int | None = None
) -> None:
    """Write voxels as .nii.gz on the grid of `header`: shape, units, both forms and their codes stay bit for bit.

    arrays: contiguous (k, j, i), written as `dtype`: one, or with `channels` as many along a fourth axis of the file.
    What a header may say beside the grid (description, patient) is left out.
    """
    target = type(header.source)()
    for field in GRID_FIELDS:
        target[field] = header.source[field]
    target["pixdim"][:4] = header.source["pixdim"][:4]
    if channels is not None or len(header.shape) > 3:  # else as the file has it: (i, j, k), or (i, j, k, 1)
        target.set_data_shape((*header.shape[:3], *([] if channels is None else [channels])))
    target.set_data_dtype(dtype)
    target["scl_slope"], target["scl_inter"] = 1, 0
    target["vox_offset"] = len(target.binaryblock) + 4
    with path.open("xb") as file, igzip.IGzipFile("", "wb", compresslevel=1, fileobj=file, mtime=0) as packed:
        packed.write(target.binaryblock + bytes(4))
        for flat in (array.reshape(-1) for array in arrays):
            for start in range(0, len(flat), SLAB_VOXELS):
                packed.write(flat[start : start + SLAB_VOXELS].astype(dtype, copy=False))
