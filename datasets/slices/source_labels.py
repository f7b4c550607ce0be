"""The labels of a resampled case on its source's own grid, kept beside its slices: scores that count are taken there.

One file a case, an npz of "shape" (slices, rows, columns), the "slices" packed one after the other, where each "ends",
and the "checksums" that the slices would have in a store that is not resampled.
"""

from collections.abc import Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from isal import isal_zlib

from datasets.slices.npz import array_checksum, pack, read_arrays

SOURCE_LABELS = "source_labels.npz"


def write_source_labels(folder: Path, packed: Sequence[bytes], shape: Sequence[int]) -> None:
    """Write the labels of a case. packed: each slice (H, W) uint8 as zlib packs it, empty where nothing is labeled."""
    empty = np.zeros(shape[1:], np.uint8)
    labels = (
        np.frombuffer(isal_zlib.decompress(part), np.uint8).reshape(empty.shape) if part else empty for part in packed
    )
    arrays = {
        "checksums": np.array([array_checksum(label) for label in labels], np.uint32),
        "shape": np.array(shape, np.int64),
        "ends": np.cumsum([len(part) for part in packed], dtype=np.int64),
        "slices": np.frombuffer(b"".join(packed) or bytes(1), np.uint8),
    }
    (folder / SOURCE_LABELS).write_bytes(b"".join(pack(arrays, compress=False)))


class SourceLabels:
    """The labels of a case, unpacked when they are asked for. Raises ValueError where the file is absent or damaged."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / SOURCE_LABELS
        try:
            arrays = read_arrays(self.file)
            self.shape, self.checksums = tuple(arrays["shape"].tolist()), arrays["checksums"].tolist()
            self._ends, self._slices = arrays["ends"].tolist(), arrays["slices"].tobytes()
        except (BadZipFile, OSError, ValueError, KeyError) as error:
            what = "is missing" if isinstance(error, FileNotFoundError) else "is damaged"
            again = f"slice {folder.name} again with scripts/SliceMaker.py"
            raise ValueError(f"{self.file}: {what}: {again}") from None

    def read(self, start: int, stop: int) -> np.ndarray:
        """Labels (stop - start, H, W) uint8 of these slices."""
        labels = np.zeros((stop - start, *self.shape[1:]), np.uint8)
        for number in range(start, stop):
            packed = self._slices[self._ends[number - 1] if number else 0 : self._ends[number]]
            if packed:
                values = np.frombuffer(isal_zlib.decompress(packed), np.uint8)
                labels[number - start] = values.reshape(self.shape[1:])
        return labels
