"""Where a fingerprint comes from: a slice store, or raw volumes before they are sliced."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from datasets.json_files import read_json
from datasets.slices.resampling import grid_of, stored_millimeters
from datasets.slices.store import SliceRecord, read_case, read_index, read_manifest, read_slice
from datasets.splits import DEFAULT_RATIOS, SPLITS, split_patients
from datasets.volumes.checks import check_grid, check_image, check_label
from datasets.volumes.geometry import iterate_slices, orient, to_slices, voxel_ml
from datasets.volumes.layouts import RawCase, RawDataset, find_cases
from datasets.volumes.nifti import read_header
from datasets.volumes.reading import read_image, read_label
from utils.command import with_bar
from utils.machine import cores
from utils.planning.fingerprint import CaseFacts, Fingerprint, look
from utils.workers import explain, run

MOST_SLICES = 48  # of a case that are read, evenly over those with a label
WORTH_PROCESSES = 5000  # slices to read
CASES_A_PROCESS = 4  # raw ones

Case = TypeVar("Case")


def of_store(root: Path, task: str | None) -> Fingerprint:
    """The fingerprint of a slice store; only some slices of training cases are read.

    task: `tumor`, `organ` or `all`; None: the store's. Raises ValueError for a folder that is no store.
    """
    manifest = read_manifest(root)
    records = sorted(read_index(root), key=lambda record: (record.case, record.slice))
    jobs = [list(group) for _, group in groupby(records, key=lambda record: record.case)]
    read = sum(min(MOST_SLICES, len(job)) for job in jobs if job[0].split == "train")
    workers = 1 if read < WORTH_PROCESSES else min(cores(), len(jobs))
    return Fingerprint(
        store=root,
        raw=_raw_folder(root, [job[0].case for job in jobs]),
        exists=True,
        dataset=manifest["dataset"],
        modality=manifest["modality"],
        task=task or manifest["task"],
        labels={int(value): name for value, name in manifest["labels"].items()},
        tumor_labels=list(manifest["tumor_labels"]),
        spacing=manifest.get("spacing"),
        slice_spacing=manifest.get("slice_spacing"),
        channel=_record(root, jobs[0][0].case).get("settings", {}).get("channel"),
        cases=_all(_stored_case, jobs, workers, lambda job: job[0].path.parent),
    )


def _stored_case(records: Sequence[SliceRecord]) -> CaseFacts:
    """The facts of a case whose rows of index.csv these are, from the lowest slice to the highest."""
    first = records[0]
    folder = first.path.parent
    shape, itemsize = _form(first)
    spacing, milliliters, source = None, {}, (len(records), *shape)
    record = _record(folder.parent, first.case)
    if (folder / "geometry.json").is_file():
        geometry = read_json(folder / "geometry.json")
        source, spacing = grid_of(geometry).source, tuple(stored_millimeters(geometry))
        size = voxel_ml(np.array(geometry["affine"]))
        milliliters = {int(value): count * size for value, count in record.get("voxels", {}).items()}
    return CaseFacts(
        case=first.case,
        patient=first.patient,
        split=first.split,
        shape=(len(records), *shape),
        spacing=spacing,
        labels=tuple(record.labels for record in records),
        milliliters={value: volume for value, volume in milliliters.items() if value},
        foreground=look(_some(records)) if first.split == "train" else None,
        itemsize=itemsize,
        source=source,
        image=Path(record["sources"]["image"]["file"]) if "sources" in record and spacing else None,
    )


def _form(record: SliceRecord) -> tuple[tuple[int, int], int]:
    image, _ = read_slice(record.path)
    return image.shape, image.itemsize


def _some(records: Iterable[SliceRecord]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    labeled = [record for record in records if record.labels]
    for place in np.unique(np.linspace(0, len(labeled) - 1, MOST_SLICES).round().astype(int)) if labeled else ():
        yield read_slice(labeled[place].path)


def _raw_folder(root: Path, cases: Sequence[str]) -> Path | None:
    """The folder that holds the files that a store was sliced from; None where it is not recorded."""
    files: list[str] = []
    for case in cases:
        sources: Any = _record(root, case).get("sources", {})
        if not isinstance(sources, dict) or "image" not in sources:
            return None
        files += [source["file"] for source in sources.values()]
    return Path(os.path.commonpath(files))


def _record(root: Path, case: str) -> dict[str, Any]:
    return read_case(root / case) or {}


@dataclass(frozen=True)
class RawJob:
    """A raw case and its split."""

    case: RawCase
    raw: RawDataset
    split: str
    channel: int | None


def of_raw(dataset: str, inpath: Path, store: Path, task: str | None, channel: int | None) -> Fingerprint:
    """The fingerprint of raw volumes, split as SliceMaker.py would by default; training cases are read whole.

    Cases that slicing would leave out are left out here as well, with a line on stderr.
    """
    raw = find_cases(dataset, inpath, channel)
    if not raw.labels:
        raise ValueError(f"{inpath}: {dataset} scans have no labels, from which a plan is made: give labeled ones")
    split = split_patients([case.patient for case in raw.cases], DEFAULT_RATIOS, 0)
    split_of = {patient: name for name in SPLITS for patient in split[name]}
    jobs = [RawJob(case, raw, split_of[case.patient], channel) for case in raw.cases]
    return Fingerprint(
        store=store,
        raw=inpath,
        exists=False,
        dataset=raw.name,
        modality=raw.modality,
        task=task or ("tumor" if raw.tumor_labels else "all"),
        labels=dict(raw.labels),
        tumor_labels=raw.tumor_labels,
        spacing=None,
        slice_spacing=None,
        channel=channel,
        cases=_all(_raw_case, jobs, max(1, min(cores(), len(jobs) // CASES_A_PROCESS)), lambda job: job.case.image),
    )


def _raw_case(job: RawJob) -> CaseFacts:
    """Raises ValueError with the first finding for which slicing would leave the case out."""
    case, raw = job.case, job.raw
    header = read_header(case.image)
    channel = job.channel if case.file_channel is None else None
    findings = check_grid(case.image, case.label, header, read_header(case.label), channel)
    if not any(finding.bad for finding in findings):
        axes, flips = orient(header.affine, raw.slice_axis)
        label = read_label(case.label)
        findings += check_label(case.label, label, raw.labels)
    if job.split == "train" and not any(finding.bad for finding in findings):
        image = read_image(case.image, raw.modality, channel or 0)
        findings += check_image(case.image, image, raw.modality)
    for finding in findings:
        if finding.bad:
            raise ValueError(str(finding))
    slices = to_slices(label.array.T, axes, flips)
    present = [tuple(np.flatnonzero(np.bincount(part[part > 0])).tolist()) for part in iterate_slices(slices)]
    foreground = None
    if job.split == "train":
        labeled = np.flatnonzero([bool(values) for values in present])
        some = (
            labeled[np.unique(np.linspace(0, len(labeled) - 1, MOST_SLICES).round().astype(int))]
            if len(labeled)
            else []
        )
        pixels = to_slices(image.array.T, axes, flips)
        foreground = look((pixels[place], slices[place]) for place in some)
    size = voxel_ml(header.affine)
    spacing = tuple(header.spacing[axis] for axis in axes)
    return CaseFacts(
        case=case.case,
        patient=case.patient,
        split=job.split,
        shape=slices.shape,
        spacing=spacing,
        labels=tuple(present),
        milliliters={value: count * size for value, count in label.voxels.items() if value and count},
        foreground=foreground,
        itemsize=2 if raw.modality == "CT" else 4,
        source=slices.shape,
        image=case.image,
    )


def _all(
    work: Callable[[Case], CaseFacts], jobs: Sequence[Case], workers: int, file: Callable[[Case], Path]
) -> list[CaseFacts]:
    """The facts of every case in order of name; a case that cannot be used is named on stderr."""

    def failed(job: Case, error: Exception) -> None:
        what = str(error) if isinstance(error, ValueError) else f"{file(job)}: {': '.join(explain(error))}"
        print(f"note: {what}: left out of the plan", file=sys.stderr)

    found = with_bar(run(work, jobs, failed, workers), len(jobs), "case", "reading")
    return sorted((facts for facts in found if facts is not None), key=lambda facts: facts.case)
