"""Reads probabilities that another program left, with the grid that they lie on: npz with pkl, or NIfTI."""

from __future__ import annotations

import pickle
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import nibabel
import numpy as np

from datasets.files import ending
from datasets.volumes.nifti import read_header
from datasets.volumes.reading import read_label

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
HARMLESS = {  # all that the properties of nnU-Net consist of beside plain values
    *(("numpy", name) for name in ("ndarray", "dtype")),
    *(
        (f"{module}.multiarray", name)
        for module in ("numpy.core", "numpy._core")
        for name in ("_reconstruct", "scalar")
    ),
    *((f"{module}.numeric", "_frombuffer") for module in ("numpy.core", "numpy._core")),
    ("collections", "OrderedDict"),
    ("_codecs", "encode"),
}


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in HARMLESS:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which properties of nnU-Net have no use for")
        return super().find_class(module, name)


def read_maps_file(path: Path, values: Sequence[int], places: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities float32 (K, i, j, k) in the order of the file, and its affine, voxel -> RAS mm.

    values: the label value of each class. places: the classes, by their place in `values`, that are wanted.
    A NIfTI file of probabilities has one volume for each class, with or without that of background before them; an npz
    has that of background.
    Raises ValueError naming a file that is not of this kind.
    """
    if ending(path) == ".npz":
        return _read_npz(path, len(values), places)
    header = read_header(path)
    if len(header.shape) == 4 or (header.dtype.kind == "f" and len(values) == 1):
        volumes = _volumes(path)
        return _channels(path, volumes, len(values), places), header.affine
    label = read_label(path)
    if label.problem:
        raise ValueError(f"{path}: {label.problem}: {label.remedy}")
    if strange := set(label.voxels) - {0, *values}:
        raise ValueError(f"{path}: holds label value {min(strange)}, which no class has: name all in --classes")
    masks = [np.equal(label.array.T, values[place]) for place in places]
    return np.stack(masks).astype(np.float32), header.affine


def _volumes(path: Path) -> np.ndarray:
    """The volumes of a NIfTI (K, i, j, k) as they lie there."""
    try:
        array = np.asanyarray(nibabel.load(path).dataobj)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise ValueError(f"{path}: is damaged ({' '.join(str(error).split())}): write it again") from None
    array = array.reshape(*array.shape[:3], -1)  # one class, or channels behind a time of 1
    return np.moveaxis(array, -1, 0)


def _channels(path: Path, volumes: np.ndarray, classes: int, places: Sequence[int]) -> np.ndarray:
    """The wanted ones of the volumes of all classes, with or without background."""
    if len(volumes) not in (classes, classes + 1):
        raise ValueError(
            f"{path}: has {len(volumes)} volumes of probabilities, and {classes} classes are named: give each class "
            "one, and background one before them or none"
        )
    first = len(volumes) - classes
    return np.stack([np.asarray(volumes[place + first], np.float32) for place in places])


def _read_npz(path: Path, classes: int, places: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """What nnU-Net writes: `probabilities` (K, z, y, x) on the whole grid of the image, which the pkl beside names."""
    try:
        with np.load(path) as content:
            volumes = content["probabilities"]
    except KeyError:
        raise ValueError(f"{path}: holds no `probabilities`: write it with --save_probabilities") from None
    except (BadZipFile, OSError, ValueError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: is damaged ({' '.join(str(error).split())}): predict it again") from None
    if volumes.ndim != 4:
        raise ValueError(f"{path}: its probabilities have the shape {volumes.shape}, not (classes, z, y, x)")
    if len(volumes) != classes + 1:
        raise ValueError(
            f"{path}: has {len(volumes)} channels, not background and {classes} classes: name all classes of its "
            "network, in order, with --classes"
        )
    return _channels(path, volumes.transpose(0, 3, 2, 1), classes, places), _affine_of(path.with_suffix(".pkl"))


def _affine_of(path: Path) -> np.ndarray:
    """The affine, voxel (x, y, z) -> RAS mm, by the properties of nnU-Net; nothing in the file is executed."""
    if not path.is_file():
        raise ValueError(f"{path}: is missing: nnU-Net writes it beside the npz, and it says where the voxels are")
    try:
        with path.open("rb") as file:
            properties = _PlainUnpickler(file).load()
        if "nibabel_stuff" in properties:
            known = properties["nibabel_stuff"]
            return np.asarray(known.get("reoriented_affine", known["original_affine"]), np.float64)
        known, affine = properties["sitk_stuff"], np.eye(4)
        affine[:3, :3] = np.reshape(known["direction"], (3, 3)) * np.asarray(known["spacing"])
        affine[:3, 3] = known["origin"]
        return LPS @ affine
    except (pickle.UnpicklingError, EOFError, AttributeError, ImportError, IndexError) as error:
        raise ValueError(f"{path}: cannot be read ({error}): give the file that nnU-Net wrote") from None
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: does not say where the voxels are ({error!r}): predict volumes, not pictures"
        ) from None
