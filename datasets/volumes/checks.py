"""What can be wrong with a raw case, one line for each fault: file, what, remedy.

A fault is bad where it would silently make a result wrong: a case whose voxels, grid or millimeters cannot be trusted
is left out. A header may state the same thing several times (sform, qform, pixdim, units). Everything here goes by the
affine, which is the sform if its code is above 0, else the qform; a contradiction to the affine is only noted.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datasets.findings import Finding, listed
from datasets.volumes.geometry import is_turned, largest_shift, orient
from datasets.volumes.nifti import Header
from datasets.volumes.reading import Image, Label

SPACING_TOLERANCE = 0.02  # relative; kits.json and headers are rounded differently
PIXDIM_TOLERANCE = 0.01  # relative
AFFINE_TOLERANCE = 1e-3  # of a voxel, times the longest side
SHEAR_TOLERANCE = 1e-3  # cosine of the angle between two axes
XFORM_CODES = range(6)
UNITS = {1: "meters", 3: "micrometers"}  # of xyzt_units; 0 is unknown, 2 is mm
LIKELY_MM = 0.05, 50.0  # what a voxel of a scan measures
REORIENT = "the grid is the same with its axes turned: reorient it (nibabel: as_reoriented), and copy no affine"
WRITE_AFFINE = "write the volume again with its affine"


def check_header(file: Path, header: Header) -> list[Finding]:
    """Check whether the affine of a header can be used, and note what contradicts it."""
    found: list[tuple[str, str, bool]] = []
    pixdim = np.asarray(header.source["pixdim"][:4], np.float64)
    zooms, sound = pixdim[1:], bool(np.isfinite(pixdim[1:]).all() and (pixdim[1:] > 0).all())
    form = "sform" if header.sform_code > 0 else "qform" if header.qform_code > 0 else "pixdim"
    try:
        orient(header.affine)
    except ValueError:
        remedy = WRITE_AFFINE
        if form == "sform" and header.qform is not None and sound:
            remedy = "set its code to 0 if the qform is right, else write the volume again with its affine"
        shown = f"pixdim {_by(zooms)}"
        detail = form if sound or form == "sform" else shown if form == "pixdim" else f"{form}, {shown}"
        return [Finding(file, f"affine is singular or not finite ({detail})", remedy)]
    for name, code in (("sform", header.sform_code), ("qform", header.qform_code)):
        if code not in XFORM_CODES:
            counts = "counts as set" if code > 0 else "counts as not set"
            found.append((f"{name} code {code} is unknown and {counts}", "write a code from 0 to 5", False))
    if form == "pixdim":
        what = "neither sform nor qform is set, its orientation is a guess"
        found.append((what, "look at a slice, and set the affine if it is turned", False))
    found += _units(header)
    spacing = header.spacing
    if not sound:
        what = f"pixdim {_by(zooms)} is not a voxel size"
        if form == "sform":
            found.append((f"{what}; the sform counts: {_mm(spacing)}", "nothing to do if that is right", False))
        else:
            found.append((f"{what}, programs read it differently", "write the volume again with its spacing", True))
    elif not np.allclose(zooms, spacing, rtol=PIXDIM_TOLERANCE):
        what = f"pixdim {_by(zooms)} contradicts the affine; the affine counts: {_mm(spacing)}"
        found.append((what, "where pixdim is right, write the volume again with an affine of that spacing", False))
    if header.qform_code > 0 and abs(pixdim[0]) != 1:
        what, remedy = f"qfac (pixdim[0]) is {pixdim[0]:g} and counts as 1", "write 1, or -1 for a left-handed qform"
        found.append((what, remedy, False))
    if form == "sform" and header.qform_code > 0 and sound:
        found += _forms(header)
    if (cosine := _shear(header.affine)) > SHEAR_TOLERANCE:
        angle = np.degrees(np.arccos(min(cosine, 1.0)))
        what = f"affine is sheared (two axes meet at {angle:.1f} degrees)"
        remedy = "resample it to right angles: volumes in ml are right, distances in mm are not"
        found.append((what, remedy, False))
    return [Finding(file, *one) for one in found]


def _units(header: Header) -> list[tuple[str, str, bool]]:
    """Findings about units other than mm; bad where the affine is likely to be in them."""
    code = int(header.source["xyzt_units"]) & 7
    if code in (0, 2):
        return []
    likely = LIKELY_MM[0] <= min(header.spacing) and max(header.spacing) <= LIKELY_MM[1]
    what = f"units are {UNITS.get(code, f'unknown (code {code})')}, its affine says {_by(header.spacing)}"
    if likely:
        return [(f"{what}, which counts as mm", "where it is mm, set xyzt_units to 2; else rescale the affine", False)]
    return [(what, "write the volume again with its affine in mm and xyzt_units 2", True)]


def _forms(header: Header) -> list[tuple[str, str, bool]]:
    """Whether the qform, given the spacing of the sform, puts the voxels elsewhere than the sform, which counts."""
    names = f"sform (code {header.sform_code}) and qform (code {header.qform_code})"
    remedy = "the sform counts; where the qform is right, set the sform's code to 0"
    if header.qform is None:
        return [("its qform is not finite or no rotation", "nothing to do if the sform is right: it counts", False)]
    qform = header.qform.copy()
    qform[:3, :3] *= header.spacing / np.linalg.norm(qform[:3, :3], axis=0)
    if (np.linalg.det(qform[:3, :3]) < 0) != (np.linalg.det(header.affine[:3, :3]) < 0):
        return [(f"{names} are mirror images of each other", remedy, False)]
    shift = largest_shift(header.affine, qform, header.shape[:3])
    if shift > AFFINE_TOLERANCE * max(header.shape[:3]):
        return [(f"{names} disagree (up to {shift:.3g} voxels apart)", remedy, False)]
    return []


def _shear(affine: np.ndarray) -> float:
    """The largest cosine between two axes; 0 where all are at right angles."""
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return float(np.abs(directions.T @ directions - np.eye(3)).max())


def check_channel(file: Path, header: Header, channel: int | None) -> list[Finding]:
    """Check that the channel asked for is one of the image's."""
    if len(header.shape) == 4 and channel is None:
        what = f"has {header.shape[3]} channels"
        return [Finding(file, what, f"choose one with --channel 0..{header.shape[3] - 1}")]
    if (channel or 0) >= (header.shape[3] if len(header.shape) == 4 else 1):
        return [Finding(file, f"has no channel {channel}", "choose a lower --channel")]
    return []


def check_grid(image_file: Path, label_file: Path, image: Header, label: Header, channel: int | None) -> list[Finding]:
    """Compare the grids of image and label, and check that their orientation is known."""
    findings = []
    if image_file.samefile(label_file):
        findings.append(Finding(label_file, "is the file of the image as well", "give the label of this image"))
    findings += check_channel(image_file, image, channel)
    if len(label.shape) == 4:
        remedy = "give one value per voxel (of one-hot labels the argmax along the fourth axis)"
        findings.append(Finding(label_file, f"label has shape {label.shape}", remedy))
    elif image.shape[:3] != label.shape:
        what = f"shape {label.shape} differs from the image's {image.shape[:3]}"
        findings.append(Finding(label_file, what, "find the label drawn on this image, or resample it"))
    for file, header in ((image_file, image), (label_file, label)):
        findings += check_header(file, header)
    if any(finding.bad for finding in findings):
        return findings
    shift = largest_shift(image.affine, label.affine, label.shape)
    if shift > AFFINE_TOLERANCE * max(label.shape):
        what = f"affine differs from the image's (up to {shift:.3g} voxels apart)"
        turned = is_turned(image.affine, label.affine, label.shape)
        remedy = REORIENT if turned else "resample the label, or give it the image's affine"
        findings.append(Finding(label_file, what, remedy))
    return findings


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


def check_millimeters(file: Path, header: Header, millimetres: bool = False) -> list[Finding]:
    """Find out whether a header says what a voxel measures, so that its volume can be resampled to a spacing in mm.

    millimetres: as for `check_spacing`.
    """
    identity = np.allclose(np.abs(header.affine[:3, :3]), np.eye(3), atol=1e-6)
    unset = header.sform_code <= 0 and header.qform_code <= 0
    if not identity or not (millimetres or unset):
        return []
    what = "has no spacing in mm (its affine is an identity)"
    return [Finding(file, what, "write the volume again with the spacing of the original, or use none in mm")]


def _by(lengths: Sequence[float]) -> str:
    return " x ".join(f"{length:g}" for length in lengths)


def _mm(spacing: Sequence[float]) -> str:
    return f"{_by(spacing)} mm"


def check_label(file: Path, label: Label, names: dict[int, str]) -> list[Finding]:
    """Check that a label volume holds values, and only those this dataset knows."""
    if label.problem:
        return [Finding(file, label.problem, label.remedy)]
    unknown = sorted(set(label.voxels) - {0} - set(names))
    if unknown:
        known = listed([f"{value} {name}" for value, name in names.items()])
        what = f"unexpected label {listed([str(value) for value in unknown])} (known: 0 background, {known})"
        remedy = "is this the right --dataset? else relabel it"
        if unknown == [255]:
            remedy = "write 0 or a known value there; no voxel can be left out, if that is what 255 stands for"
        return [Finding(file, what, remedy)]
    findings = []
    if label.rounded > 1e-6:
        what = f"label values lie up to {label.rounded:.2g} from whole numbers"
        findings.append(
            Finding(file, what, "nothing to do: they are rounded; store labels as whole numbers", bad=False)
        )
    if set(label.voxels) <= {0}:
        findings.append(
            Finding(file, "empty label, nothing is marked", "check that it is meant to be empty", bad=False)
        )
    return findings


def check_image(file: Path, image: Image, modality: str) -> list[Finding]:
    """Check that the values are finite and, for CT, that they can be Hounsfield units."""
    if image.problem:
        return [Finding(file, image.problem, image.remedy)]
    span = f"{image.minimum:g} to {image.maximum:g}"
    if image.minimum == image.maximum:
        return [Finding(file, f"constant, every voxel is {image.minimum:g}", "restore the original intensities")]
    if modality == "CT" and (image.minimum >= 0 or image.maximum - image.minimum <= 300 or image.maximum < 0):
        what = f"HU range is not CT ({span})"
        return [Finding(file, what, "give Hounsfield units: not windowed, normalized, or shifted by 1024")]
    if image.clipped:
        share = f"{image.clipped} of {image.array.size} voxels"
        what = f"values {span}, {share} are beyond int16 and were clipped to -32768 to 32767"
        return [Finding(file, what, "nothing to do where it is metal or padding; else check the scale", bad=False)]
    return []


def check_slice_size(file: Path, header: Header, axes: tuple[int, int, int], expected: int | None) -> list[Finding]:
    """Note slices that are not `expected` x `expected`; the published scripts resized the image and not the label."""
    rows, columns = header.shape[axes[1]], header.shape[axes[2]]
    if expected is None or (rows, columns) == (expected, expected):
        return []
    what = f"slices are {rows}x{columns}, not {expected}x{expected}"
    return [
        Finding(
            file,
            what,
            "nothing to do: they are stored in this size; training crops or pads them (data.crop)",
            bad=False,
        )
    ]
