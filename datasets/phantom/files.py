"""Files of the phantom: cases written in the KiTS and LiTS layouts, real KiTS label volumes read.

A case is written under a temporary name and renamed, so a stopped run leaves whole cases only.
"""

import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.affines import from_matvec, voxel_sizes

from datasets.files import replacing, write_text
from datasets.phantom.drawing import Phantom, render_around
from datasets.publishing import Kind, NotOursError
from datasets.splits import SPLITS, read_split

MARK = b"drawn by MakePhantom"  # in the header of every volume
_KITS_AXES = nib.orientations.axcodes2ornt("IPL")


def _is_marked(folder: Path, _case: str) -> bool:
    """Whether a folder holds phantoms only; in one that is being written the last volume is not whole yet."""
    return folder.name.startswith(".partial-") or all(is_phantom(file) for file in folder.iterdir())


PHANTOMS = Kind(re.compile(r"(imaging|segmentation)\.nii\.gz"), _is_marked, "imaging.nii.gz")


def write_kits_case(folder: Path, case: str, phantom: Phantom, header: nib.Nifti1Header | None = None) -> None:
    """Writes `case`/{imaging,segmentation}.nii.gz, arrays (slices, H, W), with KiTS19's permuted negative diagonal.

    `header` places the case where another file lies: its grid's affine and form codes are kept.
    """
    affine = np.zeros((4, 4))
    affine[[2, 1, 0], [0, 1, 2]] = [-step for step in phantom.spacing]
    affine[3, 3] = 1
    if header is not None:
        affine = header.get_best_affine()
    folder.mkdir(parents=True, exist_ok=True)
    with PHANTOMS.publishing(folder / case) as partial:
        for name, data in (("imaging", phantom.image), ("segmentation", phantom.label)):
            nib.save(_nifti(data, affine, header), partial / f"{name}.nii.gz")


def write_lits_case(folder: Path, number: int, phantom: Phantom) -> None:
    """Writes volume-N.nii and segmentation-N.nii, arrays (H, W, slices) bottom slice first.

    As in LiTS the direction of the first two axes differs between cases; the affine says which it is.
    """
    signs = np.array([(-1, -1), (1, -1), (-1, 1), (1, 1)][number % 4])
    affine = np.diag([*(signs * phantom.spacing[:0:-1]), phantom.spacing[0], 1.0])
    shape = phantom.image.shape[::-1]
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    folder.mkdir(parents=True, exist_ok=True)
    # From columns to the left, rows to the back, top slice first: the axes flip where the affine asks for it.
    flips = (slice(None, None, -signs[0]), slice(None, None, -signs[1]), slice(None, None, -1))
    for name, data in (("segmentation", phantom.label), ("volume", phantom.image)):  # the volume makes the case visible
        with replacing(folder / f"{name}-{number}.nii") as partial:
            partial.write_bytes(_nifti(data.transpose(2, 1, 0)[flips], affine, None).to_bytes())


def is_phantom(file: Path) -> bool:
    """Whether a volume carries the mark of those that are written here."""
    try:
        return nib.load(file).header["descrip"].item() == MARK
    except Exception:  # a damaged file can raise anything, from nibabel, gzip or zlib
        return False


def check_output(folder: Path, layout: str, split: dict[str, list[str]] | None) -> None:
    """Raise ValueError where a folder holds anything that phantoms would replace, or be mixed with."""
    if layout == "lits":
        files = [file for kind in ("volume", "segmentation") for file in folder.glob(f"{kind}-*.nii*")]
        if foreign := sorted(file for file in files if not is_phantom(file)):
            raise NotOursError(foreign[0], "was not made by MakePhantom")
        return
    for case in sorted(folder.glob("case_*")):
        PHANTOMS.check(case, case.name)
    file = folder / "kits.json"
    if file.exists() and not all(isinstance(record, dict) and record.get("phantom") for record in _records(file)):
        raise NotOursError(file, "was not made by MakePhantom")
    file = folder / "split.json"
    if split is not None and file.exists() and read_split(file) != {name: sorted(split[name]) for name in SPLITS}:
        raise NotOursError(file, "splits the cases otherwise")


def _records(kits_json: Path) -> list:
    try:
        content = json.loads(kits_json.read_text(encoding="utf-8"))
    except ValueError:
        return [None]
    return content if isinstance(content, list) else [None]


def render_label_file(
    path: Path, seed: int, classes: str, size: int | None, every: int, slice_spacing: float | None
) -> tuple[Phantom, nib.Nifti1Header]:
    """Renders a CT around the label volume at `path` (case_NNNNN/segmentation.nii.gz); returns it and a header.

    `slice_spacing` in mm sets `every` for files with thinner slices. Raises ValueError for a file that is not a label
    volume, and what nibabel raises for one that cannot be read.
    """
    source = nib.load(path)
    if len(source.shape) != 3:
        raise ValueError(f"a label of shape {source.shape} is not a volume: give one of three axes")
    affine = source.affine
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-6:
        raise ValueError("the affine is singular: correct the file's sform or qform")
    transform = nib.orientations.ornt_transform(nib.io_orientation(affine), _KITS_AXES)
    label = nib.apply_orientation(np.asanyarray(source.dataobj), transform)
    steps = voxel_sizes(affine)
    spacing = tuple(float(steps[np.flatnonzero(transform[:, 0] == axis)[0]]) for axis in range(3))
    if slice_spacing is not None:
        every = max(round(slice_spacing / spacing[0]), 1)
    if size is not None:
        size = min(size, max(label.shape[1:]))
    phantom = render_around(label, spacing, seed, case_number(path.parent.name), classes, size, every)
    # Back to the order of the file's axes; the first voxel's center moves inward when voxels are merged.
    back = nib.orientations.ornt_transform(_KITS_AXES, nib.io_orientation(affine))
    factors = np.array(phantom.spacing) / np.array(spacing)
    shape = np.array(label.shape, dtype=float)
    first = (factors - 1) / 2
    last = (np.array(phantom.image.shape) - 0.5) * factors - 0.5
    order = transform[:, 0].astype(int)  # axis of the phantom for each axis of the file
    start = np.where(transform[:, 1] > 0, first[order], shape[order] - 1 - last[order])
    reduced = affine @ from_matvec(np.diag(factors[order]), start)
    header = source.header.copy()
    if not np.allclose(reduced, affine, atol=1e-6):
        header.set_sform(reduced, int(header["sform_code"]) or 1)
        header.set_qform(reduced, int(header["qform_code"]))
    flipped = Phantom(
        nib.apply_orientation(phantom.image, back), nib.apply_orientation(phantom.label, back), phantom.spacing
    )
    return flipped, header


def kits_record(case: str, phantom: Phantom) -> dict:
    """What kits.json says of a case: its spacing in mm, under the names of KiTS19 and of KiTS21."""
    thickness, row, column = (round(step, 6) for step in phantom.spacing)
    return {
        "case_id": case,
        "voxel_spacing": {"x_spacing": column, "y_spacing": row, "z_spacing": thickness},
        "captured_slice_thickness": thickness,
        "captured_pixel_width": column,
        "phantom": True,
    }


def update_kits_json(folder: Path, records: list[dict]) -> None:
    """Adds records to kits.json, replacing those of the same case."""
    path = folder / "kits.json"
    merged = {record["case_id"]: record for record in (*(_records(path) if path.exists() else []), *records)}
    write_text(path, json.dumps([merged[case] for case in sorted(merged)], indent=1) + "\n")


def case_number(case: str) -> int:
    """The number in a case's name: 15 for case_00015. Raises ValueError for a name without one."""
    found = re.fullmatch(r"case_(\d+)", case, re.IGNORECASE)
    if not found:
        raise ValueError(f"{case!r} is not a KiTS case: name the folder case_NNNNN")
    return int(found.group(1))


def _nifti(data: np.ndarray, affine: np.ndarray, header: nib.Nifti1Header | None) -> nib.Nifti1Image:
    image = nib.Nifti1Image(np.asfortranarray(data), affine, header)
    image.set_data_dtype(data.dtype)
    image.header["descrip"] = MARK
    image.header.set_xyzt_units("mm")
    return image
