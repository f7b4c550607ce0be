"""Reads probabilities that another program left, with the grid that they lie on: npz with pkl, or NIfTI."""

from __future__ import annotations

import pickle
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import IO, Any
from zipfile import BadZipFile, ZipFile

import nibabel
import numpy as np

from datasets.files import ending
from datasets.volumes.nifti import read_header
from datasets.volumes.reading import read_label
from utils.teaching.meaning import Meaning

MEMBER = "probabilities.npy"
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


def read_maps_file(path: Path, meaning: Meaning, places: Sequence[int]) -> tuple[Iterator[np.ndarray], np.ndarray]:
    """The probabilities of the classes at these places, (i, j, k) each in the order of the file, and its affine.

    The affine is voxel -> RAS mm. A class is read when it is asked for, so that one of many lies in memory. A NIfTI
    file has one volume for each channel, that of background or none before them; an npz has all channels.
    Raises ValueError naming a file that is not of this kind, at the class where it is damaged.
    """
    if ending(path) == ".npz":
        return _read_npz(path, meaning, places)
    header = read_header(path)
    if len(header.shape) == 4 or (header.dtype.kind == "f" and len(meaning.names) == 1):
        return _read_nifti(path, meaning, places), header.affine
    label = read_label(path)
    if label.problem:
        raise ValueError(f"{path}: {label.problem}: {label.remedy}")
    if strange := set(label.voxels) - {0, *meaning.values}:
        raise ValueError(f"{path}: holds label value {min(strange)}, which no class has: name all in --classes")
    return (np.equal(label.array.T, meaning.values[place]) for place in places), header.affine


@contextmanager
def _whole(path: Path, again: str) -> Iterator[None]:
    try:
        yield
    except (BadZipFile, OSError, ValueError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: is damaged ({' '.join(str(error).split())}): {again}") from None


def _read_nifti(path: Path, meaning: Meaning, places: Sequence[int]) -> Iterator[np.ndarray]:
    """Of one class, or of channels along the fourth axis, or behind a time of 1."""
    again = "write it again"
    with _whole(path, again):
        content = nibabel.load(path, keep_file_open=True).dataobj  # a compressed file is read once, not once a class
    shape = content.shape[3:]
    without = prod(shape) - meaning.count
    if without != 0 and (without != -1 or meaning.by_regions):
        what = "regions" if meaning.by_regions else "classes"
        raise ValueError(
            f"{path}: has {prod(shape)} volumes of probabilities, and {len(meaning.names)} {what} are named: give each "
            "one, and background one before classes or none"
        )

    def read(channels: Sequence[int]) -> Iterator[np.ndarray]:
        for channel in channels:
            with _whole(path, again):
                volume = np.asarray(content[(..., *np.unravel_index(channel + without, shape))])
            yield volume

    return meaning.classes(places, read)


def _read_npz(path: Path, meaning: Meaning, places: Sequence[int]) -> tuple[Iterator[np.ndarray], np.ndarray]:
    """What nnU-Net writes: `probabilities` (K, z, y, x) on the whole grid of the image, which the pkl beside names."""
    again, header = "predict it again", None
    with _whole(path, again), ZipFile(path) as archive:
        if MEMBER in archive.namelist():
            with archive.open(MEMBER) as file:
                header = _npy_header(file)
    if header is None:
        raise ValueError(f"{path}: holds no `probabilities`: write it with --save_probabilities")
    shape, is_fortran, dtype = header
    if len(shape) != 4 or dtype.kind != "f":
        raise ValueError(f"{path}: its probabilities are {dtype} of the shape {shape}, not floats (classes, z, y, x)")
    if shape[0] != meaning.count:
        what = "a region each" if meaning.by_regions else f"background and {len(meaning.names)} classes"
        raise ValueError(
            f"{path}: has {shape[0]} channels, not {what}: name all classes of its network, in order, with --classes, "
            "or none where its dataset.json does"
        )

    def read(channels: Sequence[int]) -> Iterator[np.ndarray]:
        with _whole(path, again), ZipFile(path) as archive, archive.open(MEMBER) as file:
            _npy_header(file)
            start, size = file.tell(), prod(shape[1:]) * dtype.itemsize
            for channel in channels:
                file.seek(start + channel * size)
                yield np.frombuffer(file.read(size), dtype).reshape(shape[1:]).T
            while file.read(1 << 20):  # to the checksum at its end
                pass

    def read_at_once(channels: Sequence[int]) -> Iterator[np.ndarray]:
        with _whole(path, again), np.load(path) as content:
            volumes = content["probabilities"]
        return (volumes[channel].T for channel in channels)

    return meaning.classes(places, read_at_once if is_fortran else read), _affine_of(path.with_suffix(".pkl"))


def _npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """The shape of an array in a file, whether its first axis changes fastest, and its type."""
    known = np.lib.format
    return (known.read_array_header_1_0 if known.read_magic(file) == (1, 0) else known.read_array_header_2_0)(file)


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
