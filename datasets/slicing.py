"""Slice one raw case into the store: read, check, write, publish by rename. Runs in a worker process."""

import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from isal import isal_zlib

from datasets.checks import check_grid, check_image, check_label, check_slice_size, check_spacing
from datasets.findings import Finding
from datasets.geometry import iterate_slices, orient, to_slices
from datasets.layouts import RawCase, RawDataset
from datasets.nifti import Header, UnreadableVolumeError, read_header
from datasets.splits import SPLITS
from datasets.store import index_rows, published_cases, read_case, write_index, write_json, write_slice
from datasets.volumes import Image, Label, read_image, read_label

STORE_VERSION = 1


@dataclass(frozen=True)
class Job:
    """One case to slice into `root`; with `root` None it is only inspected."""

    case: RawCase
    raw: RawDataset
    root: Path | None
    format: str = "npz"
    compress: bool = False
    channel: int | None = None
    overwrite: bool = False


@dataclass
class Outcome:
    """What became of a case: its record unless it is bad, what was found, and whether it had been published before."""

    case: str
    record: dict[str, Any] | None = None
    findings: list[Finding] = field(default_factory=list)
    kept: bool = False


def slice_case(job: Job) -> Outcome:
    """Slice, or inspect, one case; whatever is wrong with it comes back as findings."""
    case = job.case
    try:
        sources = {"image": _source(case.image), "label": _source(case.label)}
        settings = {"version": STORE_VERSION, "format": job.format, "channel": job.channel}
        if job.root is not None and not job.overwrite:
            record = read_case(job.root / case.case)
            if record and _unchanged(record, sources, settings):
                return Outcome(case.case, record, kept=True)
        return _slice(job, sources, settings)
    except UnreadableVolumeError as error:
        return Outcome(case.case, findings=[Finding(error.path, error.what, error.remedy)])
    except OSError as error:
        file = Path(error.filename or case.image)
        return Outcome(
            case.case, findings=[Finding(file, error.strerror or str(error), "check disk space and permissions")]
        )
    except Exception as error:  # one strange file must not stop the others
        finding = Finding(
            case.image, f"{type(error).__name__}: {error}", "look at this case; if it is sound, report this"
        )
        return Outcome(case.case, findings=[finding])


def _source(path: Path) -> dict[str, Any]:
    status = path.stat()
    return {"file": str(path), "size": status.st_size, "mtime_ns": status.st_mtime_ns}


def _unchanged(record: dict[str, Any], sources: dict[str, Any], settings: dict[str, Any]) -> bool:
    """Whether a published case is of these files, by size and time of modification, and of these settings."""
    same = all(record["sources"][role][key] == sources[role][key] for role in sources for key in ("size", "mtime_ns"))
    return same and record["settings"] == settings


def _slice(job: Job, sources: dict[str, Any], settings: dict[str, Any]) -> Outcome:
    case, raw = job.case, job.raw
    header, label_header = read_header(case.image), read_header(case.label)
    channel = job.channel if case.file_channel is None else None  # of several in the file
    outcome = Outcome(case.case, findings=check_grid(case.image, case.label, header, label_header, channel))
    if any(finding.bad for finding in outcome.findings):
        return outcome
    axes, flips = orient(header.affine, raw.slice_axis)
    outcome.findings += check_spacing(case.image, header, raw.spacings.get(case.case), raw.millimetres)
    outcome.findings += check_slice_size(case.image, header, axes, raw.slice_size)

    label = read_label(case.label)
    outcome.findings += check_label(case.label, label, raw.labels)
    # packed, a label volume is small: the worker then holds little more than the image
    label_slices = to_slices(label.array.T, axes, flips)
    marked = np.flatnonzero(label_slices.any(axis=(1, 2)))
    first, last = (marked[0], marked[-1] + 1) if marked.size else (0, 0)
    packed = [b""] * len(label_slices)
    packed[first:last] = [isal_zlib.compress(part, 1) for part in iterate_slices(label_slices[first:last])]
    del label_slices
    label.array = np.empty(0, np.uint8)
    image = read_image(case.image, raw.modality, channel or 0)
    outcome.findings += check_image(case.image, image, raw.modality)
    if job.format == "png" and not image.integral:
        remedy = "use --format npz"
        outcome.findings.append(Finding(case.image, "PNG holds whole numbers from 0 to 65535 only", remedy))
    if any(finding.bad for finding in outcome.findings):
        return outcome

    for role, digest in (("image", image.sha256), ("label", label.sha256)):
        sources[role]["sha256"] = digest
    outcome.record = {
        "case": case.case,
        "patient": case.patient,
        "sources": sources,
        "settings": settings,
        "checksum": image.checksum,
        "shape": list(header.shape[:3]),
        "statistics": asdict(image.statistics),
        "voxels": {str(value): count for value, count in label.voxels.items() if value},
    }
    if job.root is not None:
        _publish(job, outcome.record, _geometry(header, axes, flips, image, label), image, packed)
    return outcome


def _geometry(
    header: Header, axes: tuple[int, ...], flips: tuple[bool, ...], image: Image, label: Label
) -> dict[str, Any]:
    """What it takes to put slices back; `axes` are the file's axes of (slices, rows, columns), turned by `flips`."""
    return {
        "affine": header.affine.tolist(),
        "sform_code": header.sform_code,
        "qform_code": header.qform_code,
        "qform": None if header.qform is None else header.qform.tolist(),
        "spacing": list(header.spacing),
        "shape": list(header.shape[:3]),
        "axis": axes[0],
        "axes": list(axes),
        "flips": list(flips),
        "slice_spacing": [header.spacing[axis] for axis in axes],
        "image_sha256": image.sha256,
        "label_sha256": label.sha256,
    }


def _publish(job: Job, record: dict[str, Any], geometry: dict[str, Any], image: Image, packed: list[bytes]) -> None:
    """Write the case beside its place and rename it there, so that it is whole or absent."""
    partial, old = _partial_folders(job.root, job.case)
    remove_partial(job.root, [job.case])
    partial.mkdir()
    slices = to_slices(image.array.T, geometry["axes"], geometry["flips"])
    half = image.half and job.format == "npz"
    empty = np.zeros(slices.shape[1:], np.uint8)
    record["slices"] = []
    for index, (part, pack) in enumerate(zip(iterate_slices(slices), packed, strict=True)):
        label = np.frombuffer(isal_zlib.decompress(pack), np.uint8).reshape(empty.shape) if pack else empty
        values = part.astype(np.float16) if half else part
        write_slice(partial / f"{index:04d}.{job.format}", values, label, job.compress)
        record["slices"].append(np.flatnonzero(np.bincount(label[label > 0])).tolist() if pack else [])
    record["bytes"] = sum(file.stat().st_size for file in partial.iterdir())
    write_json(partial / "geometry.json", geometry)
    write_json(partial / "case.json", record)
    place = job.root / job.case.case
    if place.exists():
        place.rename(old)
    partial.rename(place)
    remove_partial(job.root, [job.case])


def _partial_folders(root: Path, case: RawCase) -> tuple[Path, Path]:
    """Where a case is while it is written, and where its earlier version goes while they change places."""
    return root / f".partial-{case.case}", root / f".old-{case.case}"


def remove_partial(root: Path, cases: Iterable[RawCase]) -> None:
    """Remove what an interrupted run left of these cases (other machines may be at work on others)."""
    for case in cases:
        for folder in _partial_folders(root, case):
            shutil.rmtree(folder, ignore_errors=True)


def duplicates(records: list[dict[str, Any]]) -> list[Finding]:
    """Find cases whose image holds the very voxels of an earlier one; one patient in two splits would be a leak."""
    first: dict[tuple, dict[str, Any]] = {}
    findings = []
    for record in records:
        key = (record["checksum"], *record["shape"], record["statistics"]["mean"])
        earlier = first.setdefault(key, record)
        if earlier is not record:
            file = Path(record["sources"]["image"]["file"])
            findings.append(Finding(file, f"duplicate of {earlier['case']}", "remove one of the two"))
    return findings


def rebuild_index(root: Path, split: dict[str, list[str]], suffix: str) -> tuple[list[dict[str, Any]], list[Finding]]:
    """Write index.csv from the records of the published cases and return those it lists; duplicates are left out.

    Shards of other machines publish into the same folder: whoever finishes last lists everything.
    """
    split_of = {patient: name for name in SPLITS for patient in split[name]}
    while True:
        records = published_cases(root)
        findings = duplicates(records)
        repeated = {str(finding.file) for finding in findings}
        listed = [record for record in records if record["sources"]["image"]["file"] not in repeated]
        rows = [row for record in listed for row in index_rows(root, record, split_of[record["patient"]], suffix)]
        write_index(root, rows)
        if len(published_cases(root)) == len(records):
            return listed, findings
