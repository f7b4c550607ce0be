"""What a prediction costs from file to file: each network in fp32 and bf16, and the exported files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel
import numpy as np
import yaml
from tqdm import tqdm

from datasets.slices.store import read_slice
from datasets.volumes.geometry import restore
from utils.prediction.latency import STAGES, Candidate, Timing, measure
from utils.report.bars import Part, stacked_bars
from utils.report.cases import open_cases
from utils.report.exports import TIMED, Export
from utils.report.markup import TIMES, Column, legend, swatch, table, text
from utils.runs.artifact import INT8
from utils.runs.groups import Group
from utils.training.launch import resolve_precision

PRECISIONS = {"32-true": "fp32", "bf16-mixed": "bf16", "16-mixed": "fp16"}
COLORS = {stage: f"var(--stage-{stage})" for stage in STAGES}


def timed_names(groups: Sequence[Group]) -> dict[str, str]:
    """By group the name its network is timed under: one of a kind costs the same, whatever it was trained with."""
    found: dict[str, str] = {}
    names = {}
    for group in groups:
        network = yaml.safe_dump(group.first.checkpoint["network"])
        name = group.name if group.role == "teacher" else f"{group.first.network} student"
        if network not in found and name in found.values():
            name = f"{name} ({group.first.folder.name})"
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
    left, notes = list(candidates), []
    while left:
        with tqdm(total=repeats * len(left), desc=f"latency, {device}", unit="run", leave=False, disable=None) as bar:
            try:
                return measure(left, volume, repeats, device=device, advance=bar.update), notes
            except ValueError as error:
                failed = [candidate for candidate in left if str(error).startswith(f"{candidate.file}:")]
                if not failed:
                    raise
                notes.append(str(error))
                left = [candidate for candidate in left if candidate not in failed]
    return [], notes


@contextmanager
def volume_of(group: Group, split: str, root: str | None, given: Path | None) -> Iterator[tuple[Path, str]]:
    """The volume to predict and what it is: the given file, else the largest case of the split as a NIfTI.

    Raises ValueError where the slices are not there.
    """
    if given is not None:
        if not given.exists():
            raise ValueError(f"{given}: no such volume: give a NIfTI or a DICOM folder as --volume")
        yield given, given.name
        return
    dataset = open_cases(group.first, split, root)
    geometries = {case: json.loads((Path(dataset.root) / case / "geometry.json").read_text()) for case in dataset.cases}
    case = max(geometries, key=lambda name: int(np.prod(geometries[name]["shape"])))
    geometry = geometries[case]
    slices = np.stack([read_slice(record.path)[0] for record in dataset.records if record.case == case])
    if slices.dtype == np.float16:
        slices = slices.astype(np.float32)  # NIfTI has no float16
    image = nibabel.Nifti1Image(restore(slices, geometry), np.array(geometry["affine"]))
    image.set_sform(image.affine, max(1, int(geometry["sform_code"])))
    with TemporaryDirectory(prefix="report-") as folder:
        file = Path(folder) / f"{case}.nii.gz"
        nibabel.save(image, file)
        shape = "x".join(str(extent) for extent in geometry["shape"])
        yield file, f"{case}, {shape} voxels, the largest of the {split} split, written as .nii.gz from the slice store"


def show_timings(timings: Sequence[Timing], groups: Sequence[Group]) -> str:
    """A table of seconds by stage and stacked bars; ratios are to the first teacher in fp32."""
    base = reference(timings, groups)
    columns = [
        Column("what"),
        Column("precision"),
        *(Column(stage, True, f"seconds to {stage}") for stage in STAGES),
        Column("total s", True),
        Column("read + write", True, "the floor: no network can be faster"),
        Column("ms/slice", True),
        Column("speed", True, "times as fast as the teacher in PyTorch fp32, end to end"),
        Column("network alone", True, "times as fast as the teacher's network in PyTorch fp32"),
        Column("peak memory", True),
        Column("file", True),
    ]
    rows, bars = [], []
    for timing in timings:
        precision = precision_of(timing)
        rows.append(
            [
                text(timing.name),
                precision,
                *(f"{timing.seconds[stage]:.3f}" for stage in STAGES),
                f"<b>{timing.total_s:.3f}</b>",
                f"{timing.floor_s:.3f}",
                f"{1e3 * timing.total_s / timing.slices:.1f}",
                f"<b>{base.total_s / timing.total_s:.2f}{TIMES}</b>",
                f"{base.seconds['network'] / max(timing.seconds['network'], 1e-9):.2f}{TIMES}",
                f"{timing.peak_memory_mb:.0f} MB",
                f"{timing.file_bytes / 1e6:.1f} MB",
            ]
        )
        parts = [Part(stage, timing.seconds[stage], COLORS[stage]) for stage in STAGES]
        small = "" if timing.name.endswith(tuple(TIMED.values())) else f" <small>{precision}</small>"
        bars.append((text(timing.name) + small, parts, f"{timing.total_s:.2f} s"))
    stages = [(swatch(COLORS[stage], kind="square"), stage) for stage in STAGES]
    return f'<figure class="wide">{legend(stages)}{stacked_bars(bars)}</figure>{table(columns, rows)}'


def reference(timings: Sequence[Timing], groups: Sequence[Group]) -> Timing:
    """The teacher in PyTorch fp32, else the first."""
    names = timed_names(groups)
    teachers = {names[group.name] for group in groups if group.role == "teacher"}
    return next((each for each in timings if each.name in teachers and each.precision == "32-true"), timings[0])


def precision_of(timing: Timing) -> str:
    if timing.name.endswith(TIMED[INT8]):
        return "int8"
    return PRECISIONS.get(timing.precision, timing.precision)
