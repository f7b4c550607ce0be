"""A file as a stream of bytes, plain or gzip, hashed as it is read; files of other kinds are named."""

import hashlib
from pathlib import Path
from stat import S_ISREG

import numpy as np
from isal import igzip, isal_zlib

from datasets.files import NIFTI_ENDINGS, ending

DEFLATE_RATIO = 1032  # one byte of a gzip file holds no more
TRAILING_BYTES = 1 << 20  # what may follow the voxels
GZIP = b"\x1f\x8b"
STAND_INS = (  # files of other kinds, recognized by how they begin
    (b"version https://git-lfs", "is a git-lfs pointer, the volume was not fetched", "fetch it with git lfs pull"),
    (b"/annex/objects/", "is a git-annex pointer, the volume was not fetched", "fetch it with git annex get"),
    (b"<!doctype html", "is a web page, not a volume", "download the file again; a login may be needed"),
    (b"nrrd0", "is an NRRD file", "convert it to .nii.gz"),
    (b"objecttype", "is a MetaImage file", "convert it to .nii.gz"),
    (b"ndims", "is a MetaImage file", "convert it to .nii.gz"),
    (b"pk\3\4", "is a zip archive", "unpack it"),
    (b"<html", "is a web page, not a volume", "download the file again; a login may be needed"),
)


class UnreadableVolumeError(ValueError):
    """A file that is not a whole NIfTI volume; `what` is wrong with it and the `remedy`."""

    def __init__(self, path: Path, what: str, remedy: str):
        super().__init__(f"{path}: {what}: {remedy}")
        self.path, self.what, self.remedy = path, what, remedy

    def __reduce__(self) -> tuple:
        return type(self), (self.path, self.what, self.remedy)


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
    """Sequential reader of a plain or gzip-compressed file (recognized by content, not by name)."""

    def __init__(self, path: Path):
        self.path, self.position = path, 0
        try:
            status = path.stat()
            if not S_ISREG(status.st_mode):  # to open a named pipe would take forever
                raise UnreadableVolumeError(path, "is not a file", "give a .nii or .nii.gz file")
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
        """The first bytes; raise where there are fewer, and for a file of another kind."""
        start = np.zeros(size, np.uint8)
        count = self._fill(start)
        text = start[:64].tobytes().lower()
        if self.compressed and text.startswith(GZIP):
            raise UnreadableVolumeError(self.path, "is compressed twice", "unpack it once (gunzip)")
        for beginning, what, remedy in STAND_INS:
            if text.startswith(beginning):
                raise UnreadableVolumeError(self.path, what, remedy)
        if start[128:132].tobytes() == b"DICM":
            raise UnreadableVolumeError(self.path, "is a DICOM file", "name it .dcm, and give the folder of its series")
        if not count:
            raise UnreadableVolumeError(self.path, "is empty", "copy or download the file again")
        if count < size and ending(self.path) not in NIFTI_ENDINGS:
            raise UnreadableVolumeError(self.path, "is not a NIfTI volume", "give a .nii or .nii.gz file")
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
