"""Predicting a CT volume from file to file: a student against its teacher, stage by stage, on one volume in one run.

Every network and precision takes its turn in a process of its own, as predict.py runs it: read and decompress, window
and pad, network, labels, compress and write. The floor is reading and writing alone. The volume is made (noise that
gzip cannot remove) unless one is given; the work does not depend on what it shows.
"""

import argparse
import platform
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from tqdm import tqdm

from datasets.slices.store import write_json
from scripts.benchmarks.slicing import make_input
from utils.prediction.latency import STAGES, Candidate, Timing, measure
from utils.tables import table
from utils.training.device import resolve_precision


def run(args: argparse.Namespace) -> None:
    candidates = find_candidates(args)
    with tempfile.TemporaryDirectory(prefix="prediction-benchmark-") as folder:
        if args.volume is None:
            make_input(Path(folder), 1, args.slices)
        volume = args.volume or Path(folder, "case_00000/imaging.nii.gz")
        with tqdm(total=args.rounds * len(candidates), unit="prediction", disable=None) as bar:
            timings, problems = measure(candidates, volume, args.rounds, args.threads, advance=bar.update)
    if problems:
        raise ValueError("; ".join(problems))
    teacher = timings[0]
    print(f"one volume of {teacher.slices} slices, CPU, {args.threads} threads, torch {torch.__version__}")
    print(f"teacher {args.teacher}, student {args.student}; seconds, medians of {args.rounds}\n")
    print(table([_row(timing, teacher) for timing in timings]))
    print("\nfloor: reading and writing alone")
    for line in verdict(timings):
        print(line)
    if args.output:
        hardware = {"processor": platform.processor(), "threads": args.threads, "torch": torch.__version__}
        write_json(args.output, {**hardware, "rounds": args.rounds, "timings": [asdict(each) for each in timings]})


def find_candidates(args: argparse.Namespace) -> list[Candidate]:
    """Teacher and student in fp32, both in bf16 where the CPU computes in it, and the student's exported files."""
    precisions = ["32-true"] + ["bf16-mixed"] * (resolve_precision("auto", "cpu") == "bf16-mixed")
    candidates = [
        Candidate(name, file, precision)
        for precision in precisions
        for name, file in (("teacher", args.teacher), ("student", args.student))
    ]
    if args.exports:
        forms = (("student, ONNX", "student.onnx"), ("student, int8", "student_int8.onnx"))
        candidates += [Candidate(name, args.exports / file) for name, file in forms if (args.exports / file).is_file()]
    return candidates


def verdict(timings: Sequence[Timing]) -> list[str]:
    """How much faster the student is in the teacher's precision, and in its fastest form."""
    teacher, lines = timings[0], []
    for precision in dict.fromkeys(timing.precision for timing in timings):
        pair = [timing for timing in timings if timing.precision == precision and timing.name in ("teacher", "student")]
        lines.append(f"student in {precision}: {pair[0].total_s / pair[1].total_s:.2f}x as fast as the teacher in it")
    fastest = min((timing for timing in timings if timing.name != "teacher"), key=lambda timing: timing.total_s)
    ratio, floors = teacher.total_s / fastest.total_s, fastest.total_s / fastest.floor_s
    lines.append(
        f"fastest form ({fastest.name}, {_precision(fastest)}): {ratio:.2f}x as fast as the teacher in fp32, "
        f"{floors:.1f}x the floor, peak memory {fastest.peak_memory_mb / 1000:.2f} GB"
    )
    return lines


def _precision(timing: Timing) -> str:
    """What it computes in; an exported file has a precision of its own, whatever --precision says."""
    return "as exported" if timing.name.startswith("student, ") else timing.precision


def _row(timing: Timing, teacher: Timing) -> dict[str, str]:
    stages = {stage: f"{timing.seconds[stage]:.2f}" for stage in STAGES}
    return {
        "form": timing.name,
        "precision": _precision(timing),
        **stages,
        "all": f"{timing.total_s:.2f}",
        "floor": f"{timing.floor_s:.2f}",
        "ratio": f"{teacher.total_s / timing.total_s:.2f}x",
        "peak MB": f"{timing.peak_memory_mb:.0f}",
        "file MB": f"{timing.file_bytes / 1e6:.2f}",
    }
