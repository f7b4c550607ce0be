"""Encoded images before any training data is made of them: those of a folder, or those in ISIC 2024's HDF5."""

from pathlib import Path
from typing import Any

import numpy as np

from datasets.decoding import SUFFIXES

IMAGES = "train-image.hdf5"


def image_files(folder: Path) -> list[Path]:
    """All image files below a folder, sorted. Raises ValueError where there is none."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.name[0] != ".")
    if not files:
        raise ValueError(f"{folder}: holds no image ({', '.join(sorted(SUFFIXES))})")
    return files


class RawImages:
    """Images below a folder by their paths; where it holds `train-image.hdf5`, the images in that instead.

    Those in the HDF5 are named as ISIC 2024 unpacks them: `train-image/image/ISIC_ID.jpg`. Threads may share one.

    Args:
        root: The folder.

    Raises ValueError when there is no image.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._store: Any = None
        if (root / IMAGES).is_file():
            self._store = _open(root / IMAGES)
            self.names = [f"train-image/image/{key}.jpg" for key in self._store]
        else:
            self.names = [path.relative_to(root).as_posix() for path in image_files(root)]

    def read(self, name: str) -> bytes:
        """The image as it is encoded. Raises ValueError when it cannot be read."""
        try:
            if self._store is not None:
                return np.asarray(self._store[Path(name).stem][()]).tobytes()
            return (self.root / name).read_bytes()
        except (OSError, KeyError) as error:
            raise ValueError(f"{self.root / name}: cannot be read ({error}): restore it, or remove it") from None


def _open(file: Path) -> Any:
    import h5py

    try:
        return h5py.File(file, "r", locking=False)
    except OSError as error:
        raise ValueError(f"{file}: no HDF5 file ({error}): download it again") from None
