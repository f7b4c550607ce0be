"""What can be wrong with a raw case, said in one line each: file, what, remedy."""

from pathlib import Path

import numpy as np

from datasets.findings import Finding
from datasets.geometry import orient
from datasets.nifti import Header
from datasets.volumes import Image, Label

SPACING_TOLERANCE = 0.02  # relative; kits.json and headers are rounded differently
AFFINE_TOLERANCE = 1e-3  # of a voxel, times the longest side


def check_grid(image_file: Path, label_file: Path, image: Header, label: Header, channel: int | None) -> list[Finding]:
    """Compare the grids of image and label, and see whether their orientation can be known."""
    findings = []
    if len(image.shape) == 4 and channel is None:
        what = f"has {image.shape[3]} channels"
        findings.append(Finding(image_file, what, f"choose one with --channel 0..{image.shape[3] - 1}"))
    elif (channel or 0) >= (image.shape[3] if len(image.shape) == 4 else 1):
        findings.append(Finding(image_file, f"has no channel {channel}", "choose a lower --channel"))
    if len(label.shape) == 4:
        findings.append(Finding(label_file, f"label has shape {label.shape}", "give one value per voxel"))
    elif image.shape[:3] != label.shape:
        what = f"shape {label.shape} differs from the image's {image.shape[:3]}"
        findings.append(Finding(label_file, what, "find the label drawn on this image, or resample it"))
    for file, header in ((image_file, image), (label_file, label)):
        try:
            orient(header.affine)
        except ValueError:
            findings.append(Finding(file, "affine is singular or not finite", "write the volume again with its affine"))
            return findings
    if image.shape[:3] == label.shape and _largest_shift(image, label) > AFFINE_TOLERANCE * max(label.shape):
        what = f"affine differs from the image's (up to {_largest_shift(image, label):.3g} voxels apart)"
        findings.append(Finding(label_file, what, "resample the label, or give it the image's affine"))
    if image.sform_code == 0 and image.qform_code == 0:
        what = "neither sform nor qform is set, its orientation is a guess"
        findings.append(Finding(image_file, what, "look at a slice, and set the affine if it is turned", bad=False))
    return findings


def _largest_shift(image: Header, label: Header) -> float:
    """The largest distance between the same corner of both grids, in voxels of the image."""
    corners = np.array(np.meshgrid(*[(0, size - 1) for size in label.shape], [1])).reshape(4, -1)
    return float(np.abs((np.linalg.inv(image.affine) @ label.affine @ corners - corners)[:3]).max())


def check_spacing(
    file: Path, header: Header, expected: tuple[float, float, float] | None, millimetres: bool
) -> list[Finding]:
    """Compare a header with the (x, y, z) mm of kits.json where there is one; else suspect an identity affine.

    millimetres: the dataset is one whose volumes always have a real spacing, so that identity is a loss.
    """
    directions = header.affine[:3, :3]
    identity = np.allclose(np.abs(directions), np.eye(3), atol=1e-6)
    unit = np.allclose(header.spacing, 1.0, atol=1e-6)
    if expected is None:
        if identity and millimetres:
            what = "identity affine (spacing 1 mm), orientation and spacing are lost"
            remedy = "take spacing and orientation from the original; distances in mm will be wrong"
            return [Finding(file, what, remedy, bad=False)]
        return []
    if identity or (unit and not np.allclose(expected, 1.0, rtol=SPACING_TOLERANCE)):
        what = f"{'identity affine' if identity else 'unit spacing'} contradicts kits.json ({_mm(expected)})"
        return [Finding(file, what, "download the case again: its header is lost")]
    axes, _ = orient(header.affine)
    lengths = np.linalg.norm(directions, axis=0)
    found = tuple(float(lengths[axis]) for axis in reversed(axes))
    if not np.allclose(found, expected, rtol=SPACING_TOLERANCE):
        what = f"spacing {_mm(found)} contradicts kits.json ({_mm(expected)})"
        return [Finding(file, what, "trust neither: compare with the original", bad=False)]
    return []


def _mm(spacing: tuple[float, ...]) -> str:
    return " x ".join(f"{length:g}" for length in spacing) + " mm"


def check_label(file: Path, label: Label, names: dict[int, str]) -> list[Finding]:
    """See whether a label volume holds only the values this dataset knows, and any at all."""
    if label.problem:
        return [Finding(file, label.problem, "write it again with whole label values")]
    unknown = sorted(set(label.voxels) - {0} - set(names))
    if unknown:
        known = _some([f"{value} {name}" for value, name in names.items()])
        what = f"unexpected label {_some([str(value) for value in unknown])} (known: 0 background, {known})"
        return [Finding(file, what, "is this the right --dataset? else relabel it")]
    if set(label.voxels) <= {0}:
        return [Finding(file, "empty label, nothing is marked", "check that it is meant to be empty", bad=False)]
    return []


def _some(words: list[str]) -> str:
    return ", ".join(words[:5]) + (f" and {len(words) - 5} more" if len(words) > 5 else "")


def check_image(file: Path, image: Image, modality: str) -> list[Finding]:
    """See whether the values are finite and, for CT, whether they can be Hounsfield units."""
    if image.problem:
        return [Finding(file, image.problem, "restore the original intensities")]
    span = f"{image.minimum:g} to {image.maximum:g}"
    if image.minimum == image.maximum:
        return [Finding(file, f"constant, every voxel is {image.minimum:g}", "restore the original intensities")]
    if modality == "CT" and (image.minimum >= 0 or image.maximum - image.minimum <= 300 or image.maximum < 0):
        what = f"HU range is not CT ({span})"
        return [Finding(file, what, "give Hounsfield units: not windowed, normalized, or shifted by 1024")]
    return []


def check_slice_size(file: Path, header: Header, axes: tuple[int, int, int], expected: int | None) -> list[Finding]:
    """Tell slices that are not `expected` x `expected`; the published scripts resized the image and not the label."""
    rows, columns = header.shape[axes[1]], header.shape[axes[2]]
    if expected is None or (rows, columns) == (expected, expected):
        return []
    what = f"slices are {rows}x{columns}, not {expected}x{expected}"
    return [Finding(file, what, "nothing to do: they are written as they are, crop when training", bad=False)]
