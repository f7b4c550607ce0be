"""What the GPU does: a training step, the batches, whole trainings and a prediction, side by side in one run.

The step is that of EMKD, RA-UNet to ResNet-18, the published way, launched kernel by kernel, captured as a CUDA graph,
and compiled as well. The trainings are train.py and train_kd.py on made slices. Their speed is that of all that they do
from the end of the first epoch's steps to that of the last one's: steps, validations, checkpoints and the turn of
epochs; the share says how much of the captured step's own speed that is. The use of the GPU is the mean over the same
time. Two ceilings are measured here as well: a copy within the device's memory, and a product of matrices. On a CPU
everything is smaller, and nothing is captured. What is not measured within --minutes is left out, and named.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from datasets.slices.store import write_json
from scripts.benchmarks.gpu_bench import ON_CPU, Bench, Row, Size, free_memory
from scripts.benchmarks.gpu_runs import at_once, course
from scripts.benchmarks.gpu_steps import compiled, pipeline, steps
from scripts.benchmarks.gpu_use import Watched, ceilings
from scripts.benchmarks.noise_store import write_noise_store
from scripts.benchmarks.slicing import write_case
from utils.prediction.latency import STAGES, Candidate, measure
from utils.recipe.schema import ROOT
from utils.tables import table
from utils.training.device import resolve_precision, use_hardware

LEAST_S = 20  # a part that would begin with less time than this is left out

Part = Callable[[Bench], Iterable[Row]]


def run(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {args.threads} threads"
    use_hardware()
    print(f"{name}, torch {torch.__version__}", flush=True)
    with tempfile.TemporaryDirectory(prefix="gpu-benchmark-") as folder:
        size = Size() if device.type == "cuda" else ON_CPU
        bench = Bench(device, size, time.monotonic() + 60 * args.minutes, Path(folder))
        parts = (limits, stores, steps, pipeline, trainings, small_images, prediction, side_by_side, compiled)
        for part in tqdm(parts, "parts", leave=False, disable=None):
            take(bench, part, f"{args.minutes} minutes were over")
            report(bench, part.__name__, name, args.output)
    for line in bench.left_out:
        print(f"left out: {line}")


def take(bench: Bench, part: Part, late: str) -> None:
    """Adds the rows of a part: those that it has when it fails, or when the time is over, which is named then."""
    try:
        if bench.seconds_left < LEAST_S:
            raise TimeoutError(late)
        with ended_after(bench.seconds_left, late):
            for row in part(bench):
                bench.rows.setdefault(part.__name__, []).append(row)
    except (RuntimeError, ValueError, OSError, subprocess.SubprocessError) as error:
        bench.left_out.append(f"{part.__name__}: {' '.join(str(error).split())[:300]}")
    free_memory()


@contextmanager
def ended_after(seconds: float, why: str) -> Iterator[None]:
    """Raises TimeoutError in what is done within, once so many seconds have passed."""

    def end(*_: object) -> None:
        raise TimeoutError(why)

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def report(bench: Bench, part: str, name: str, output: Path | None) -> None:
    """Prints the rows of a part, and writes all that is known so far."""
    if rows := bench.rows.get(part):
        columns = dict.fromkeys(column for row in rows for column in row)
        lines = [{column: _plain(row.get(column, "")) for column in columns} for row in rows]
        tqdm.write(f"\n{part}\n{table(lines)}")
    if output is not None:
        known = {"device": name, "torch": torch.__version__, "size": asdict(bench.size)}
        write_json(output, known | {"parts": bench.rows, "left_out": bench.left_out})


def limits(bench: Bench) -> list[Row]:
    """What nothing on this device is faster than."""
    return ceilings(bench.device, bench.size.matrix)


def stores(bench: Bench) -> Iterator[Row]:
    """Makes the slices that are trained on."""
    size = bench.size
    for name, side, volumes in (("large", size.side, size.volumes), ("small", 64, size.small_volumes)):
        started = time.perf_counter()
        write_noise_store(bench.folder / name, volumes, size.slices, side)
        train, val, _ = (size.slices * count for count in volumes)
        seconds = {"made s": time.perf_counter() - started}
        yield {"slices": f"{side}x{side}", "train": train, "val": val} | seconds


def trainings(bench: Bench) -> Iterator[Row]:
    """train.py and train_kd.py, as their configs have them but for the number of epochs."""
    size, count = bench.size, bench.size.batches[1]
    common = [f"--data.root={bench.folder / 'large'}", f"--data.crop={size.crop}", f"--training.epochs={size.epochs}"]
    common.append(f"--training.batch_size={count}")
    yield _train(bench, "train.py", "kits19_teacher", "teacher", count, size.epochs, common)
    distilled = [*common, "--loss_type=emkd", f"--teacher={bench.folder / 'teacher'}"]
    student = _train(bench, "train_kd.py", "kits19_student", "student", count, size.epochs, distilled)
    if own := bench.step(count, "captured") or bench.step(count, "launched"):
        student["share of the step's speed"] = student["images/s"] / own["images/s"]
    yield student


def small_images(bench: Bench) -> Iterator[Row]:
    """The U-Net of hippocampus on images of 64x64."""
    size, config = bench.size, "hippocampus_teacher"
    yield _train(bench, "train.py", config, "small", size.small_batch, size.small_epochs, _of_small(bench))


def side_by_side(bench: Bench) -> Iterator[Row]:
    """The narrow U-Net of the leaderboard of hippocampus: one training, and several that share the device."""
    size, folder = bench.size, bench.folder / "at_once"
    flags = [*size.flags, *_of_small(bench), '--network={"name": "unet", "widths": [8, 8, 16, 32, 64]}']
    for count in size.at_once:
        where = folder / str(count)
        yield at_once(count, where, "hippocampus_teacher", flags, size.small_batch, size.small_epochs)


def prediction(bench: Bench) -> list[Row]:
    """A volume from file to file, by stage, with the networks that were just trained."""
    side = bench.size.side
    noise = np.random.default_rng(0).integers(-200, 300, (8, side, side), np.int16)
    image = np.resize(noise, (bench.size.volume, side, side))
    write_case(bench.folder / "volume", 0, image, np.zeros(image.shape, np.uint8))
    volume = bench.folder / "volume/case_00000/imaging.nii.gz"
    precision = resolve_precision("auto", bench.device.type)
    candidates = [Candidate(name, bench.folder / name, precision) for name in ("teacher", "student")]
    timings, problems = measure(candidates, volume, 1, torch.get_num_threads(), bench.device.type)
    bench.left_out += problems
    return [
        {"network": each.name, "slices": each.slices}
        | {f"{stage} s": each.seconds[stage] for stage in STAGES}
        | {"all s": each.total_s}
        for each in timings
    ]


def _train(bench: Bench, script: str, config: str, name: str, batch_size: int, epochs: int, flags: list[str]) -> Row:
    """Runs a training in a process of its own, and reads what it wrote down."""
    command = [sys.executable, ROOT / script, f"--config={ROOT / 'configs' / config}.yaml", *bench.size.flags, *flags]
    started, folder = time.perf_counter(), bench.folder / name
    with Watched() as watched:
        done = subprocess.run([*map(str, command), f"--output={folder}"], capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"{script}: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    taken = course(folder, batch_size, epochs)
    row = {"run": f"{script} {config}", "images": batch_size, **taken.speeds, "all s": time.perf_counter() - started}
    return row | watched.found(taken.times[0], taken.times[-1])


def _of_small(bench: Bench) -> list[str]:
    size = bench.size
    flags = [f"--data.root={bench.folder / 'small'}", '--data.augment=["flip", "rot90"]']
    return [*flags, f"--training.batch_size={size.small_batch}", f"--training.epochs={size.small_epochs}"]


def _plain(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
