"""NIfTI files as a stream: header and voxels slab by slab, in one pass, plain or gzip, hashed as they are read."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from isal import igzip, isal_zlib

SLAB_VOXELS = 1 << 19


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
            with path.open("rb") as file:
                compressed = file.read(2) == b"\x1f\x8b"
            self._source = _HashingFile(path)
        except OSError as error:
            raise UnreadableVolumeError(
                path, f"cannot be opened ({error.strerror})", "check path and permissions"
            ) from None
        self._reader = igzip.IGzipFile(fileobj=self._source, mode="rb") if compressed else self._source

    def __enter__(self) -> "VolumeStream":
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
    with VolumeStream(path) as stream:
        return parse_header(stream)


def parse_header(stream: VolumeStream) -> Header:
    raw = np.empty(348, np.uint8)
    stream.fill(raw)
    if raw[4:7].tobytes() == b"n+2":
        rest = np.empty(192, np.uint8)
        stream.fill(rest)
        raw, kind = np.concatenate([raw, rest]), nibabel.Nifti2Header
    elif raw[344:347].tobytes() == b"n+1":
        kind = nibabel.Nifti1Header
    else:
        raise UnreadableVolumeError(stream.path, "not a single-file NIfTI", "give a .nii or .nii.gz file")
    try:
        header = kind(binaryblock=raw.tobytes(), check=False)
        dtype = header.get_data_dtype()
        slope, inter = header.get_slope_inter()
        qform, qform_code = header.get_qform(coded=True)
        shape = tuple(int(size) for size in header.get_data_shape())
        affine, spacing = header.get_best_affine(), tuple(float(zoom) for zoom in header.get_zooms()[:3])
        sform_code, offset = int(header["sform_code"]), int(header["vox_offset"])
    except (ValueError, KeyError, nibabel.spatialimages.HeaderDataError) as error:
        raise UnreadableVolumeError(stream.path, f"damaged NIfTI header ({error})", "give the original file") from None
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
