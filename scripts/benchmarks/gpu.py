"""What the GPU does: a training step, the batches, whole trainings and a prediction, side by side in one run.

The step is that of EMKD, RA-UNet to ResNet-18, the published way, launched kernel by kernel, captured as a CUDA graph,
and compiled as well. The trainings are train.py and train_kd.py from start to end on made slices; their speed is that
of their steps, and the share says how much of the captured step's own speed they reach. Two ceilings are measured here
as well: a copy within the device's memory, and a product of matrices. On a CPU everything is smaller, and nothing is
captured. What would begin after --minutes is left out, and named.
"""

from __future__ import annotations

import argparse
import gc
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from datasets.slices.dataset import SliceDataset
from datasets.slices.store import write_json
from scripts.benchmarks.gpu_runs import at_once, rate
from scripts.benchmarks.gpu_use import Watched, ceilings, wait
from scripts.benchmarks.kd_step import make_batch, our_step, published_step, time_in_turns
from scripts.benchmarks.slicing import ours as slice_volumes
from scripts.benchmarks.slicing import write_case
from utils.prediction.latency import STAGES, Candidate, measure
from utils.recipe.schema import ROOT
from utils.tables import table
from utils.training.device import resolve_precision, use_hardware
from utils.training.loading import Loader
from utils.training.order import order_of

Row = dict[str, Any]


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Args:
        side: Of a slice in pixels; `crop` is what a training sees of it.
        slices: In each of 12 volumes, of which nine are trained on.
        batches: Images of the steps; a training has the second.
        epochs: Of a training.
        small_batch: Images of 64x64 in a step of the small U-Nets.
        at_once: Trainings of the narrow one that share the device.
        volume: Slices of the predicted volume.
        matrix: Side of the matrices of the ceiling.
        flags: Of every training.
    """

    side: int = 512
    crop: int = 384
    slices: int = 64
    batches: tuple[int, ...] = (4, 16, 64)
    rounds: int = 20
    epochs: int = 12
    small_batch: int = 128
    at_once: tuple[int, ...] = (1, 4)
    volume: int = 400
    matrix: int = 8192
    flags: tuple[str, ...] = ()


ON_CPU = Size(
    side=64,
    crop=32,
    slices=2,
    batches=(2, 4),
    rounds=1,
    epochs=1,
    small_batch=4,
    at_once=(2,),
    volume=2,
    matrix=256,
    flags=('--network={"name": "unet", "widths": [4, 4, 4, 4, 4]}',),
)


@dataclass
class Bench:
    """What is known so far; every part adds its rows."""

    device: torch.device
    size: Size
    deadline: float
    folder: Path
    rows: dict[str, list[Row]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    @property
    def seconds_left(self) -> float:
        return self.deadline - time.monotonic()


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
            if bench.seconds_left < 20:
                bench.left_out.append(f"{part.__name__}: {args.minutes} minutes were over")
                continue
            try:
                bench.rows[part.__name__] = part(bench)
            except (RuntimeError, ValueError, OSError, subprocess.SubprocessError) as error:
                bench.left_out.append(f"{part.__name__}: {' '.join(str(error).split())[:300]}")
            _free()
            report(bench, part.__name__, name, args.output)
    for line in bench.left_out:
        print(f"left out: {line}")


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


def stores(bench: Bench) -> list[Row]:
    """Makes the slices that are trained on: few different ones, again and again."""
    rows = []
    for name, side in (("large", bench.size.side), ("small", 64)):
        random = np.random.default_rng(0)
        started = time.perf_counter()
        for case in range(12):
            image = np.resize(random.integers(-200, 300, (2, side, side), np.int16), (bench.size.slices, side, side))
            label = np.zeros(image.shape, np.uint8)
            label[:, side // 4 : side // 2, side // 4 : side // 2] = 1
            label[:, side // 3 : side // 2, side // 3 : side // 2] = 2
            write_case(bench.folder / f"raw_{name}", case, image, label)
        made = time.perf_counter() - started
        started = time.perf_counter()
        slice_volumes(bench.folder / f"raw_{name}", bench.folder / name, jobs=2)
        seconds = {"made s": made, "sliced s": time.perf_counter() - started}
        rows.append({"slices": f"{12 * bench.size.slices} of {side}x{side}"} | seconds)
    return rows


def steps(bench: Bench) -> list[Row]:
    """EMKD's step by the number of images: the published way, ours launched, ours captured."""
    rows = []
    for count in bench.size.batches:
        image, target = make_batch(count, bench.size.crop, bench.device.type)
        ways: dict[str, Callable[[], Any]] = {"published": published_step(image, target)}
        precision = resolve_precision("auto", bench.device.type)
        ways["launched"] = our_step(image, target, precision=precision, graph="never")
        if bench.device.type == "cuda":
            ways["captured"] = our_step(image, target, precision=precision)
        rows += _timed(bench, ways, count, published=None)
        del ways
        _free()
    return rows


def compiled(bench: Bench) -> list[Row]:
    """torch.compile beneath the graph, at the second number of images: with the seconds until its first step."""
    count = bench.size.batches[1]
    image, target = make_batch(count, bench.size.crop, bench.device.type)
    step = our_step(image, target, precision=resolve_precision("auto", bench.device.type), compile=True)
    started = time.perf_counter()
    step()
    first = time.perf_counter() - started
    published = next(row["ms"] for row in bench.rows["steps"] if row["images"] == count)
    return [row | {"first step s": first} for row in _timed(bench, {"compiled": step}, count, published)]


def pipeline(bench: Bench) -> list[Row]:
    """Batches alone, as a training gets them."""
    rows = []
    for augment in (("flip", "rot90"), ("flip", "rot90", "affine", "intensity")):
        dataset = SliceDataset(bench.folder / "large", "train", crop=bench.size.crop, augment=augment)
        loader, count = Loader(dataset, bench.device), bench.size.batches[1]
        order = order_of(dataset, count, seed=0)
        batches = [batch for epoch in range(4) for batch in order.epoch(epoch)]
        list(loader(batches[:2]))
        wait(bench.device)
        started = time.perf_counter()
        for _ in loader(batches):
            pass
        wait(bench.device)
        seconds = time.perf_counter() - started
        rows.append({"augment": " ".join(augment), "images": count, "images/s": count * len(batches) / seconds})
    return rows


def trainings(bench: Bench) -> list[Row]:
    """train.py and train_kd.py from start to end."""
    size = bench.size
    common = [f"--data.root={bench.folder / 'large'}", f"--data.crop={size.crop}", "--training.pictures=0"]
    common += [f"--training.batch_size={size.batches[1]}", *_epochs(size.epochs)]
    teacher = _train(bench, "train.py", "kits19_teacher", "teacher", size.batches[1], common)
    distilled = [*common, "--loss_type=emkd", f"--teacher={bench.folder / 'teacher'}"]
    student = _train(bench, "train_kd.py", "kits19_student", "student", size.batches[1], distilled)
    own = [row for row in bench.rows.get("steps", ()) if row["images"] == size.batches[1]]
    if own:
        student["share of the step's speed"] = student["images/s"] / own[-1]["images/s"]
    return [teacher, student]


def small_images(bench: Bench) -> list[Row]:
    """The U-Net of hippocampus on images of 64x64."""
    return [_train(bench, "train.py", "hippocampus_teacher", "small", bench.size.small_batch, _of_small(bench))]


def side_by_side(bench: Bench) -> list[Row]:
    """The narrow U-Net of the leaderboard of hippocampus: one training, and several that share the device."""
    flags = [*bench.size.flags, *_of_small(bench), '--network={"name": "unet", "widths": [8, 8, 16, 32, 64]}']
    folder, config = bench.folder / "at_once", "hippocampus_teacher"
    return [at_once(count, folder / str(count), config, flags) for count in bench.size.at_once]


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


def _train(bench: Bench, script: str, config: str, name: str, batch_size: int, flags: list[str]) -> Row:
    """Runs a training in a process of its own, and reads what it wrote down."""
    command = [sys.executable, ROOT / script, f"--config={ROOT / 'configs' / config}.yaml", *bench.size.flags, *flags]
    started = time.perf_counter()
    with Watched() as watched:
        done = subprocess.run(
            [*map(str, command), f"--output={bench.folder / name}"],
            capture_output=True,
            text=True,
            timeout=max(bench.seconds_left, 1),
        )
    if done.returncode:
        raise ValueError(f"{script}: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    seconds = time.perf_counter() - started
    row = {"run": f"{script} {config}", "images": batch_size, "images/s": rate(bench.folder / name), "all s": seconds}
    return row | watched.found()


def _of_small(bench: Bench) -> list[str]:
    flags = [f"--data.root={bench.folder / 'small'}", '--data.augment=["flip", "rot90"]', "--training.pictures=0"]
    return [*flags, f"--training.batch_size={bench.size.small_batch}", *_epochs(5 * bench.size.epochs)]


def _epochs(count: int) -> list[str]:
    return [f"--training.epochs={count}", f"--training.validate_every={count}", "--training.share_every=0"]


def _timed(bench: Bench, ways: dict[str, Callable[[], Any]], count: int, published: float | None) -> list[Row]:
    seconds = time_in_turns(ways, bench.size.rounds, bench.device.type)
    first = published or 1e3 * seconds["published"]
    return [
        {"step": name, "images": count, "ms": 1e3 * value, "images/s": count / value, "ratio": first / (1e3 * value)}
        for name, value in seconds.items()
    ]


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _plain(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
