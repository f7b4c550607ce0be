"""Slice one raw case into the store: read, check, write, publish by rename. Runs in a worker process."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
from isal import isal_zlib

from datasets.files import remedy_of
from datasets.findings import Finding
from datasets.publishing import NotOursError
from datasets.slices.resampling import Grid, grid_for, resampled, resampled_label
from datasets.slices.source_labels import write_source_labels
from datasets.slices.sources import read_slices
from datasets.slices.store import CASES, RECORD, is_whole, read_case, write_json, write_slice
from datasets.volumes.checks import (
    check_channel,
    check_grid,
    check_header,
    check_image,
    check_label,
    check_millimeters,
    check_slice_size,
    check_spacing,
)
from datasets.volumes.dicom import open_series
from datasets.volumes.geometry import iterate_slices, orient, to_slices
from datasets.volumes.layouts import RawCase, RawDataset
from datasets.volumes.nifti import Header, UnreadableVolumeError, read_header
from datasets.volumes.reading import Image, Label, read_image, read_label

STORE_VERSION = 1


@dataclass(frozen=True)
class Job:
    """One case to slice into `root`; with `root` None it is only inspected.

    spacing, slice_spacing: the mm of a stored pixel and of a slab of slices; None: those of the source.
    """

    case: RawCase
    raw: RawDataset
    root: Path | None
    format: str = "npz"
    compress: bool = False
    channel: int | None = None
    overwrite: bool = False
    spacing: float | None = None
    slice_spacing: float | None = None

    @property
    def settings(self) -> dict[str, Any]:
        return settings_of(self.format, self.channel, self.spacing, self.slice_spacing)


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
        sources, settings = read_sources(case), job.settings
        if job.root is not None:
            record = None if job.overwrite else read_case(job.root / case.case)
            if record and is_unchanged(record, sources, settings) and is_whole(job.root / case.case, record):
                return _keep(job, record, sources)
            CASES.check(job.root / case.case, case.case)
        return _slice(job, sources, settings)
    except (UnreadableVolumeError, NotOursError) as error:
        return Outcome(case.case, findings=[Finding(error.path, error.what, error.remedy)])
    except OSError as error:
        file = Path(error.filename or case.image)
        return Outcome(case.case, findings=[Finding(file, error.strerror or str(error), remedy_of(error))])
    except Exception as error:  # one strange file must not stop the others
        finding = Finding(
            case.image, f"{type(error).__name__}: {error}", "look at this case; if it is sound, report this"
        )
        return Outcome(case.case, findings=[finding])


def read_sources(case: RawCase) -> dict[str, dict[str, Any]]:
    """Path, size and time of a case's files, by which a later run recognizes them; of a series those of all files."""
    found = {}
    for role, path in (("image", case.image), ("label", case.label)):
        if path is None:
            continue
        several = role == "image" and case.series is not None
        statuses = [file.stat() for file in (case.files if several else (path,))]
        size, time = sum(each.st_size for each in statuses), max(each.st_mtime_ns for each in statuses)
        found[role] = {"file": str(path.absolute()), "size": size, "mtime_ns": time}
    return found


def settings_of(
    file_format: str, channel: int | None, spacing: float | None, slice_spacing: float | None
) -> dict[str, Any]:
    """What the slices of a case depend on besides its files; a spacing that is the source's own is not named."""
    asked = {"spacing": spacing, "slice_spacing": slice_spacing}
    return {
        "version": STORE_VERSION,
        "format": file_format,
        "channel": channel,
        **{name: value for name, value in asked.items() if value is not None},
    }


def is_unchanged(record: dict[str, Any], sources: dict[str, Any], settings: dict[str, Any]) -> bool:
    """Whether a published case is of these files, by size and time of modification, and of these settings."""
    same = all(record["sources"][role][key] == sources[role][key] for role in sources for key in ("size", "mtime_ns"))
    return same and record["settings"] == settings


def _keep(job: Job, record: dict[str, Any], sources: dict[str, Any]) -> Outcome:
    """Keep a published case whose files did not change; the labels, its place and its patient may have."""
    if job.case.label is not None:
        voxels = {int(value): count for value, count in record["voxels"].items()}
        label = Label(np.empty(0, np.uint8), record["sources"]["label"]["sha256"], voxels)
        findings = [finding for finding in check_label(job.case.label, label, job.raw.labels) if finding.bad]
        if findings:
            return Outcome(job.case.case, findings=findings)
    sources = {role: {**record["sources"][role], "file": sources[role]["file"]} for role in sources}
    now = {**record, "patient": job.case.patient, "sources": sources}
    if now != record:
        write_json(job.root / job.case.case / RECORD, now)
    return Outcome(job.case.case, now, kept=True)


def _slice(job: Job, sources: dict[str, Any], settings: dict[str, Any]) -> Outcome:
    case, raw = job.case, job.raw
    series = None if case.series is None else open_series(case.series)
    header = read_header(case.image) if series is None else series.header
    channel = job.channel if case.file_channel is None else None  # of several in the file
    outcome = Outcome(case.case)
    if case.label is None:
        outcome.findings += check_channel(case.image, header, channel) + check_header(case.image, header)
    else:
        outcome.findings += check_grid(case.image, case.label, header, read_header(case.label), channel)
    if any(finding.bad for finding in outcome.findings):
        return outcome
    axes, flips = orient(header.affine, raw.slice_axis)
    if job.spacing or job.slice_spacing:
        outcome.findings += check_millimeters(case.image, header, raw.millimetres)
    outcome.findings += check_spacing(case.image, header, raw.spacings.get(case.case), raw.millimetres)
    outcome.findings += check_slice_size(case.image, header, axes, raw.slice_size)

    shape, millimeters = ([each[axis] for axis in axes] for each in (header.shape, header.spacing))
    grid = grid_for(shape, millimeters, job.spacing, job.slice_spacing)

    label, packed = None, None
    if case.label is not None:
        label = read_label(case.label)
        outcome.findings += check_label(case.label, label, raw.labels)
        packed = _packed(to_slices(label.array.T, axes, flips))
        label.array = np.empty(0, np.uint8)  # packed, a label volume is small: a worker holds little but the image
    image = read_slices(series, raw.modality) if series else read_image(case.image, raw.modality, channel or 0)
    outcome.findings += check_image(case.image, image, raw.modality)
    integral = image.integral and (raw.modality == "CT" or not grid.is_resampled)
    if job.format == "png" and not integral:
        remedy = "use --format npz"
        outcome.findings.append(Finding(case.image, "PNG holds whole numbers from 0 to 65535 only", remedy))
    if any(finding.bad for finding in outcome.findings):
        return outcome

    sources["image"]["sha256"] = image.sha256
    if label is not None:
        sources["label"]["sha256"] = label.sha256
    outcome.record = {
        "case": case.case,
        "patient": case.patient,
        "sources": sources,
        "settings": settings,
        "checksum": image.checksum,
        "shape": list(header.shape[:3]),
        "statistics": asdict(image.statistics),
        "voxels": {str(value): count for value, count in (label.voxels if label else {}).items() if value},
    }
    if job.root is not None:
        geometry = _geometry(header, axes, flips, image, label)
        if grid.is_resampled:
            geometry["stored"] = {"shape": list(grid.stored), "slab": grid.slab}
        _publish(job, outcome.record, geometry, grid, image, packed)
    return outcome


def _packed(labels: np.ndarray) -> list[bytes]:
    """Each label slice of a volume (S, H, W) as zlib packs it, empty where nothing is labeled."""
    marked = np.flatnonzero(np.bitwise_or.reduce(labels, axis=(1, 2)))
    first, last = (int(marked[0]), int(marked[-1]) + 1) if marked.size else (0, 0)
    packed = [b""] * len(labels)
    packed[first:last] = [isal_zlib.compress(part, 1) for part in iterate_slices(labels[first:last])]
    return packed


def _geometry(
    header: Header, axes: tuple[int, ...], flips: tuple[bool, ...], image: Image, label: Label | None
) -> dict[str, Any]:
    """What is needed to put slices back; `axes` are the file's axes of (slices, rows, columns), turned by `flips`."""
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
        "label_sha256": None if label is None else label.sha256,
    }


def _publish(
    job: Job, record: dict[str, Any], geometry: dict[str, Any], grid: Grid, image: Image, packed: list[bytes] | None
) -> None:
    """Write the case beside its place and rename it there, so that it is whole or absent. packed: its labels."""
    slices = to_slices(image.array.T, geometry["axes"], geometry["flips"])
    half = image.half and job.format == "npz" and not grid.is_resampled
    labels = repeat(None, grid.stored[0]) if packed is None else _labels(packed, grid)
    stored = zip(resampled(iterate_slices(slices), grid), labels, strict=True)
    with CASES.publishing(job.root / job.case.case) as folder:
        write_json(folder / RECORD, {"case": record["case"], "settings": record["settings"]})  # the folder is ours
        listed = []
        for index, (part, label) in enumerate(stored):
            values = part.astype(np.float16) if half else part
            write_slice(folder / f"{index:04d}.{job.format}", values, label, job.compress)
            listed.append([] if label is None else np.flatnonzero(np.bincount(label[label > 0])).tolist())
        if grid.is_resampled and packed is not None:
            write_source_labels(folder, packed, grid.source)
        size = sum(file.stat().st_size for file in folder.iterdir() if file.name != RECORD)
        write_json(folder / "geometry.json", geometry)
        record |= {"slices": listed, "bytes": size}
        write_json(folder / RECORD, record)


def _labels(packed: Sequence[bytes], grid: Grid) -> Iterator[np.ndarray]:
    """The stored labels (h, w) of a case, in their order; packed: those of the source's slices, see `_slice`."""
    empty = np.zeros(grid.stored[1:], np.uint8)
    for start in range(0, len(packed), grid.slab):
        slab = packed[start : start + grid.slab]
        labels = [np.frombuffer(isal_zlib.decompress(part), np.uint8).reshape(grid.source[1:]) for part in slab if part]
        if not labels:
            yield empty
        else:
            yield resampled_label(labels, len(slab), empty.shape) if grid.is_resampled else labels[0]


def duplicates(records: list[dict[str, Any]]) -> dict[str, Finding]:
    """Find cases whose image holds the very voxels of an earlier one; one patient in two splits would be a leak."""
    first: dict[tuple, dict[str, Any]] = {}
    findings = {}
    for record in records:
        key = (record["checksum"], *record["shape"], record["statistics"]["mean"])
        earlier = first.setdefault(key, record)
        if earlier is not record:
            file = Path(record["sources"]["image"]["file"])
            findings[record["case"]] = Finding(file, f"duplicate of {earlier['case']}", "remove one of the two")
    return findings
