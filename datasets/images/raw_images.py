"""Encoded images, of a folder or of ISIC 2024's HDF5 file."""

from pathlib import Path
from typing import Any

import numpy as np

from datasets.files import describe
from datasets.images.decoding import SUFFIXES, scan_images
from datasets.scan import Scan

IMAGES = "train-image.hdf5"


def image_files(folder: Path) -> Scan:
    """The images below a folder, and what was passed over. Raises ValueError if there are none."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: {'is a file' if folder.exists() else 'no such folder'}: give a folder of images")
    found = scan_images(folder)
    if not found.files:
        why = [f"{folder}: holds no image ({', '.join(sorted(SUFFIXES))})", *found.bad[:5], *found.notes[:5]]
        raise ValueError("; ".join(why))
    return found


class RawImages:
    """Images below a folder by their paths; where it holds `train-image.hdf5`, the images in that instead.

    Those in the HDF5 are named as ISIC 2024 unpacks them: `train-image/image/ISIC_ID.jpg`. Threads may share one.
    `bad` and `notes` are lines about what cannot be read, and what was passed over.

    Args:
        root: The folder.

    Raises ValueError when there is no image.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.bad: list[str] = []
        self.notes: list[str] = []
        self._store: Any = None
        if (root / IMAGES).is_file():
            self._store = open_store(root / IMAGES)
            self.names = [f"train-image/image/{key}.jpg" for key in self._store]
        else:
            found = image_files(root)
            self.bad, self.notes = found.bad, found.notes
            self.names = [path.relative_to(root).as_posix() for path in found.files]

    def read(self, name: str) -> bytes:
        """The image as it is encoded. Raises ValueError when it cannot be read."""
        if self._store is not None:
            return read_stored(self._store, self.root / IMAGES, Path(name).stem)
        try:
            return (self.root / name).read_bytes()
        except OSError as error:
            raise ValueError(describe(error, self.root / name)) from None


def open_store(file: Path) -> Any:
    """Open the HDF5 file of ISIC 2024. Raises ValueError for any other file."""
    import h5py

    try:
        return h5py.File(file, "r", locking="best-effort")
    except PermissionError as error:
        raise ValueError(describe(error, file)) from None
    except OSError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{file}: no HDF5 file ({reason}): download it again") from None


def read_stored(store: Any, file: Path, key: str) -> bytes:
    """The encoded image of one lesion. Raises ValueError if it is missing or damaged."""
    try:
        return np.asarray(store[key][()]).tobytes()
    except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{file}: {key}: cannot be read ({reason}): download it again") from None
