"""The same picture under several names, found by what the files hold."""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from hashlib import blake2b, file_digest
from pathlib import Path

import numpy as np

from datasets.images.decoding import READERS, UnreadableImageError, decode

DECODED_MB = 64  # files of more are compared by their bytes: it is much faster


def groups(keys: Iterable[Hashable]) -> list[list[int]]:
    """The positions of each key that occurs more than once."""
    found: dict[Hashable, list[int]] = defaultdict(list)
    for position, key in enumerate(keys):
        found[key].append(position)
    return [positions for positions in found.values() if len(positions) > 1]


def same_pictures(files: Sequence[Path]) -> list[list[int]]:
    """Groups of positions in `files` that hold the same picture.

    Where all files together have at most `DECODED_MB`, their pixels are compared, so that a copy in another lossless
    format is found; else their bytes.
    """
    status = [file.stat() for file in files]
    by_pixels = sum(each.st_size for each in status) <= DECODED_MB * 2**20
    equal = range(len(files))
    if not by_pixels:  # only files of equal size can have equal bytes
        equal = [position for positions in groups(each.st_size for each in status) for position in positions]

    def content(position: int) -> bytes:
        return _content(files[position], status[position].st_size, status[position].st_mtime_ns, by_pixels)

    with ThreadPoolExecutor(READERS) as pool:
        return [[equal[place] for place in places] for places in groups(pool.map(content, equal))]


@cache  # train, val and test of a folder are compared alike, one after the other
def _content(file: Path, size: int, mtime_ns: int, by_pixels: bool) -> bytes:
    """A digest of a file; size and time are for the cache to see that it was written anew."""
    if by_pixels:
        try:
            return pixels_digest(decode(file, str(file)))
        except UnreadableImageError:
            pass  # it is refused where it is used; until then its bytes count
    with file.open("rb") as content:
        return file_digest(content, "blake2b").digest()


def pixels_digest(image: np.ndarray) -> bytes:
    """A digest of uint8 (H, W) or (H, W, 3), the same where all three channels are equal and where there is one."""
    if image.ndim == 3 and (image == image[..., :1]).all():
        image = np.ascontiguousarray(image[..., 0])
    return blake2b(image.tobytes() + str(image.shape).encode()).digest()
