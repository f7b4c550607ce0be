"""NIfTI files as a stream: header and voxels slab by slab, in one pass, plain or gzip, hashed as they are read.

No more is read than the header declares, and nothing is made room for that the file cannot hold.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from isal import igzip
from nibabel.spatialimages import HeaderDataError

from datasets.files import ending
from datasets.volumes.geometry import spacing_of
from datasets.volumes.stream import UnreadableVolumeError, VolumeStream

SLAB_VOXELS = 1 << 19
GRID_FIELDS = (
    *("dim", "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)


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
    elif raw[344:347].tobytes() == b"ni1" or ending(stream.path) in (".hdr", ".img"):
        what = "is one of a pair of files (.hdr and .img)"
        raise UnreadableVolumeError(stream.path, what, "convert the two to one .nii.gz")
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
    except (ValueError, KeyError, OverflowError, HeaderDataError) as error:
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
