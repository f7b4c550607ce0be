"""Predicting a CT volume from file to file: students beside their teacher, stage by stage, on one volume in one run.

Each takes its turn in a process of its own, as predict.py runs it: read and decompress, preprocess, network, labels,
compress and write. The floor is reading and writing alone. The volume is made unless one is given: noise, which gzip
cannot remove and of which no slice is blank, so it measures a volume that shows something everywhere; real ones take
less. With its labels as --truth, Dice is on the volume's own grid.

  python scripts/benchmarks/benchmark.py prediction --teacher runs/teacher --student native=runs/student
      fast=exported/student openvino=exported/student,openvino int8=exported/student/student_int8.onnx
      --volume raw/case_00033/imaging.nii.gz --truth raw/case_00033/segmentation.nii.gz
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from tqdm import tqdm

from datasets.slices.store import write_json
from scripts.benchmarks.slicing import make_input
from utils.machine import processor
from utils.prediction.flags import ENGINES
from utils.prediction.latency import ALL_STAGES, Candidate, Timing, measure
from utils.runs.models import network_file
from utils.tables import table
from utils.training.device import resolve_precision


def run(args: argparse.Namespace) -> None:
    candidates = find_candidates(args)
    if args.truth is not None and args.volume is None:
        raise ValueError(f"--truth {args.truth}: are labels of a volume: give it as --volume")
    with tempfile.TemporaryDirectory(prefix="prediction-benchmark-") as folder:
        if args.volume is None:
            make_input(Path(folder), 1, args.slices)
        volume = args.volume or Path(folder, "case_00000/imaging.nii.gz")
        with tqdm(total=args.rounds * len(candidates), unit="prediction", disable=None) as bar:
            timings, problems = measure(
                candidates, volume, args.rounds, args.threads, advance=bar.update, truth=args.truth
            )
    if problems:
        raise ValueError("; ".join(problems))
    teacher = timings[0]
    print(f"one volume of {teacher.slices} slices, {processor()}, {args.threads} threads, torch {torch.__version__}")
    for name, files in {each.name: each.file for each in candidates}.items():
        print(f"  {name}: {files}")
    print(f"seconds, medians of {args.rounds}\n")
    stages = [stage for stage in ALL_STAGES if any(stage in timing.seconds for timing in timings)]
    classes = list(dict.fromkeys(name for timing in timings for name in timing.dice))
    print(table([_row(timing, teacher, stages, classes) for timing in timings]))
    print("\nfloor: reading and writing alone; ratio: to the teacher in fp32")
    print(verdict(timings))
    if args.output:
        hardware = {"processor": processor(), "threads": args.threads, "torch": torch.__version__}
        write_json(args.output, {**hardware, "rounds": args.rounds, "timings": [asdict(each) for each in timings]})


def find_candidates(args: argparse.Namespace) -> list[Candidate]:
    """Teacher and students in fp32; runs and checkpoints also in bf16 where the CPU computes in it."""
    students = [student_of(text) for text in args.student]
    if len({each.name for each in students} - {"teacher"}) < len(students):
        raise ValueError(f"--student {' '.join(args.student)}: give each a name of its own: NAME=PATH")
    candidates = [Candidate("teacher", args.teacher), *students]
    if resolve_precision("auto", "cpu") == "bf16-mixed":
        trained = [each for each in candidates if network_file(each.file).suffix == ".ckpt"]
        candidates += [Candidate(each.name, each.file, "bf16-mixed", each.engine, each.locate) for each in trained]
    return candidates


def student_of(text: str) -> Candidate:
    """A student by its flag, [NAME=]PATH[,ENGINE][,locate=LOCATOR]; a name has no slash."""
    parts, engine, locator = text.split(","), "auto", None
    while len(parts) > 1 and (parts[-1] in ENGINES or parts[-1].startswith("locate=")):
        part = parts.pop()
        if part in ENGINES:
            engine = part
        else:
            locator = Path(part.removeprefix("locate="))
    place = ",".join(parts)
    name, found, path = place.partition("=")
    if not found or "/" in name:
        name, path = "student", place
    return Candidate(name, Path(path), "32-true", engine, locator)


def verdict(timings: Sequence[Timing]) -> str:
    """How much faster than the teacher in fp32 the fastest student is."""
    teacher, *students = timings
    fastest = min((each for each in students if each.name != teacher.name), key=lambda timing: timing.total_s)
    ratio, floors = teacher.total_s / fastest.total_s, fastest.total_s / fastest.floor_s
    return (
        f"fastest ({fastest.name}, {fastest.precision}, {fastest.engine}): {ratio:.2f}x as fast as the teacher in "
        f"fp32, {floors:.1f}x the floor, peak memory {fastest.peak_memory_mb / 1000:.2f} GB"
    )


def _row(timing: Timing, teacher: Timing, stages: Sequence[str], classes: Sequence[str]) -> dict[str, str]:
    return {
        "form": timing.name,
        "precision": timing.precision,
        "engine": timing.engine,
        **{stage: f"{timing.seconds.get(stage, 0.0):.2f}" for stage in stages},
        "all": f"{timing.total_s:.2f}",
        "floor": f"{timing.floor_s:.2f}",
        "ratio": f"{teacher.total_s / timing.total_s:.2f}x",
        "peak MB": f"{timing.peak_memory_mb:.0f}",
        "file MB": f"{timing.file_bytes / 1e6:.2f}",
        **{f"Dice {name}": f"{timing.dice[name]:.4f}" if name in timing.dice else "-" for name in classes},
    }
