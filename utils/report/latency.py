"""What a prediction costs from file to file: each network in fp32 and bf16, and the exported files."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel
import numpy as np
import yaml
from tqdm import tqdm

from datasets.volumes.geometry import restore
from utils.evaluation.source_grid import source_slices
from utils.prediction.latency import Candidate, Timing, measure
from utils.report.exports import TIMED, Export
from utils.runs.artifact import INT8
from utils.runs.data import open_split
from utils.runs.groups import Group, telling_apart
from utils.training.device import resolve_precision

PRECISIONS = {"32-true": "fp32", "bf16-mixed": "bf16", "16-mixed": "fp16"}
BUSY = 0.2  # share of the cores' time taken by others from which times cannot be trusted
LOOK_S = 0.5  # seconds to look at that


def timed_names(groups: Sequence[Group]) -> dict[str, str]:
    """By group the name its network is timed under: one of a kind costs the same, whatever it was trained with."""
    found: dict[str, str] = {}
    names = {}
    for group, folder in zip(groups, telling_apart([group.first.folder for group in groups]), strict=True):
        network = yaml.safe_dump(group.first.checkpoint["network"])
        name = group.name if group.role == "teacher" else f"{group.first.network} student"
        if network not in found and name in found.values():
            name = f"{name} ({folder})"
        names[group.name] = found.setdefault(network, name)
    return names


def candidates_of(groups: Sequence[Group], exports: Sequence[Export]) -> list[Candidate]:
    """A run of each network in fp32 and, where this CPU computes in it, bf16; and the ONNX files of the exports."""
    precisions = ["32-true"]
    if resolve_precision("auto", "cpu") == "bf16-mixed":
        precisions.append("bf16-mixed")
    names = timed_names(groups)
    files = {names[group.name]: group.first.folder for group in reversed(groups)}
    candidates = [Candidate(name, files[name], each) for name in dict.fromkeys(names.values()) for each in precisions]
    return candidates + [Candidate(name, file) for export in exports for name, file in export.timed().items()]


def measure_all(
    candidates: Sequence[Candidate], volume: Path, repeats: int, device: str = "cpu"
) -> tuple[list[Timing], list[str]]:
    """The timings of those that could be timed, and a line for each that could not."""
    total = repeats * len(candidates)
    with tqdm(total=total, desc=f"latency, {device}", unit="run", leave=False, disable=None) as bar:
        return measure(candidates, volume, repeats, device=device, advance=bar.update)


@contextmanager
def volume_of(group: Group, split: str, root: str | None, given: Path | None) -> Iterator[tuple[Path, str]]:
    """The volume to predict and its description: the given file, else the largest case of the split as a NIfTI.

    Raises ValueError where the slices are not there.
    """
    if given is not None:
        if not given.exists():
            raise ValueError(f"{given}: no such volume: give a NIfTI or a DICOM folder as --volume")
        yield given, given.name
        return
    dataset = open_split(group.first.checkpoint, split, root)
    geometries = {case: json.loads((Path(dataset.root) / case / "geometry.json").read_text()) for case in dataset.cases}
    case = max(geometries, key=lambda name: int(np.prod(geometries[name]["shape"])))
    geometry = geometries[case]
    slices = source_slices(dataset, case)
    if slices.dtype == np.float16:
        slices = slices.astype(np.float32)  # NIfTI has no float16
    image = nibabel.Nifti1Image(restore(slices, geometry), np.array(geometry["affine"]))
    image.set_sform(image.affine, max(1, int(geometry["sform_code"])))
    with TemporaryDirectory(prefix="report-") as folder:
        file = Path(folder) / f"{case}.nii.gz"
        nibabel.save(image, file)
        shape = "x".join(str(extent) for extent in geometry["shape"])
        yield file, f"{case}, {shape} voxels, the largest of the {split} split, written as .nii.gz from the slice store"


def reference(timings: Sequence[Timing], groups: Sequence[Group]) -> Timing:
    """The teacher in PyTorch fp32, else the first."""
    names = timed_names(groups)
    teachers = {names[group.name] for group in groups if group.role == "teacher"}
    return next((each for each in timings if each.name in teachers and each.precision == "32-true"), timings[0])


def precision_of(timing: Timing) -> str:
    """The precision of a timing as the page writes it."""
    return "int8" if timing.name.endswith(TIMED[INT8]) else PRECISIONS.get(timing.precision, timing.precision)


def is_exported(timing: Timing) -> bool:
    return timing.name.endswith(tuple(TIMED.values()))


def other_work() -> str:
    """A clause about other programs that keep this machine busy now; empty where none do, or it cannot be seen."""
    try:
        before = _ticks()
        time.sleep(LOOK_S)
        after = _ticks()
    except (OSError, ValueError, IndexError):
        return ""  # not Linux
    idle, whole = (later - earlier for earlier, later in zip(before, after, strict=True))
    busy = 1 - idle / max(whole, 1)
    if busy < BUSY:
        return ""
    return f"; this machine had other work ({busy:.0%} of its cores' time): the times may be too long"


def _ticks() -> tuple[int, int]:
    """Clock ticks that all cores have idled, and all ticks, since the start."""
    fields = [int(value) for value in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return fields[3] + fields[4], sum(fields)
