"""Slicing CT volumes: SliceMaker against the published script, and against the floor of reading gzip and writing raw.

The published way is imitated: the image in float64 and the label through float64, every slice resized whatever its size
(at 512x512 a resize copies), one compressed npz per slice, a pool of threads. It is timed without its imports,
SliceMaker and the floor with everything, from the start of Python to its end, in as many processes; these two in turn,
three times, the slow way once. Medians are printed.
"""

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from multiprocessing import get_context
from multiprocessing.pool import ThreadPool
from pathlib import Path

import nibabel
import numpy as np
from isal import igzip
from scipy import ndimage


def run(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="slicing-benchmark-") as folder:
        raw, out = Path(folder, "raw"), Path(folder)
        print(f"making {args.cases} KiTS-like volumes of {args.slices} slices ...", flush=True)
        measure(make_input, raw, args.cases, args.slices)
        size = sum(file.stat().st_size for file in raw.rglob("*.gz")) / 1e6
        print(f"input: {size:.0f} MB compressed; {args.jobs} workers; {args.cases * args.slices} slices\n")
        ways = {"published way": published, "SliceMaker": ours, "floor": partial(floor, slices=args.slices)}
        runs: dict[str, list[tuple[float, float, float]]] = {name: [] for name in ways}
        for number in range(args.rounds):
            for name in list(ways)[number > 0 :]:
                target = out / name.split()[0]
                shutil.rmtree(target, ignore_errors=True)
                os.sync()  # nobody pays for what the one before left to be written
                runs[name].append(measure(ways[name], raw, target, args.jobs))
        rows = []
        for name in ways:
            seconds, busy, peak = (statistics.median(values) for values in zip(*runs[name], strict=True))
            rows.append((seconds, busy, peak))
            files = (out / name.split()[0]).rglob("*")
            written = sum(file.stat().st_size for file in files if file.is_file()) / 1e6
            per_slice = seconds / (args.cases * args.slices) * 1e3
            cost = f"{seconds:7.2f} s  {per_slice:6.1f} ms/slice  {busy:7.2f} s of CPU"
            print(f"{name:14} {cost}  peak of one process {peak:5.0f} MB  wrote {written:4.0f} MB", flush=True)
        (slow, slow_busy, slow_peak), (fast, fast_busy, fast_peak), (least, least_busy, _) = rows
    busy_ratio, least_ratio = slow_busy / fast_busy, fast_busy / least_busy
    print(f"\nSliceMaker is {slow / fast:.1f}x as fast ({busy_ratio:.1f}x by CPU time, fairer on a busy machine),")
    print(f"with {slow_peak / fast_peak:.1f}x less memory in one process.")
    print("The floor is to start Python, read gzip and write as many bytes, nothing else:")
    print(f"SliceMaker takes {fast / least:.2f}x that ({least_ratio:.2f}x by CPU time).")


def measure(function: Callable, *arguments: object) -> tuple[float, float, float]:
    """Run in a process of its own; return seconds, CPU seconds, and the peak memory (MB) of any one process."""
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(_measured, (function, arguments))


def _measured(function: Callable, arguments: tuple) -> tuple[float, float, float]:
    before, started = _cpu_seconds(), time.perf_counter()
    function(*arguments)
    seconds, busy = time.perf_counter() - started, _cpu_seconds() - before
    usages = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return seconds, busy, max(usages) * 1024 / 1e6


def _cpu_seconds() -> float:
    """Of this process and of those it has waited for."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def make_input(raw: Path, cases: int, slices: int) -> None:
    """Write KiTS-like cases: (slices, H, W), noise that gzip cannot remove, constant outside the scanner's circle."""
    rows, columns = np.mgrid[-1:1:512j, -1:1:512j]
    radius = np.hypot(rows, columns)
    body = np.hypot(rows / 0.62, columns / 0.85) < 1
    for case in range(cases):
        random = np.random.default_rng(case)
        image = np.empty((slices, 512, 512), np.int16)
        label = np.zeros((slices, 512, 512), np.uint8)
        tissue = ndimage.gaussian_filter(random.normal(0, 1, (512, 512)), 12) * 1500
        for index in range(slices):
            noise = ndimage.gaussian_filter(random.normal(0, 50, (512, 512)), 0.6)
            hounsfield = np.where(body, 40 + tissue, -1000) + noise
            image[index] = np.where(radius < 1, hounsfield.clip(-1024), -1024)
            if slices // 4 < index < slices // 2:
                label[index] = np.hypot(rows - 0.1, columns - 0.4) < 0.15
                label[index][np.hypot(rows - 0.15, columns - 0.4) < 0.05] = 2
        write_case(raw, case, image, label)


def write_case(raw: Path, case: int, image: np.ndarray, label: np.ndarray) -> None:
    """Write a case, (slices, H, W) both, as KiTS has it."""
    affine = np.array([[0, 0, -0.8, 0], [0, -0.8, 0, 0], [-3.0, 0, 0, 0], [0, 0, 0, 1]])
    folder = raw / f"case_{case:05d}"
    folder.mkdir(parents=True)
    for name, array in (("imaging", image), ("segmentation", label)):
        content = nibabel.Nifti1Image(array, affine).to_bytes()
        (folder / f"{name}.nii.gz").write_bytes(igzip.compress(content, 2))


def ours(raw: Path, out: Path, jobs: int) -> None:
    script = Path(__file__).parents[1] / "SliceMaker.py"
    flags = ["--inpath", raw, "--outpath", out, "--dataset", "kits", "--task", "tumor", "--jobs", str(jobs)]
    subprocess.run([sys.executable, script, *flags], check=True, stdout=subprocess.DEVNULL)


def published(raw: Path, out: Path, jobs: int) -> None:
    out.mkdir()
    with ThreadPool(jobs) as pool:
        pool.starmap(_published_case, [(folder, out) for folder in sorted(raw.iterdir())])


def _published_case(folder: Path, out: Path) -> None:
    image = nibabel.load(folder / "imaging.nii.gz").get_fdata()
    label = nibabel.load(folder / "segmentation.nii.gz").get_fdata().astype(np.int8)
    for index in range(len(image)):
        resized = np.ascontiguousarray(image[index])
        np.savez_compressed(out / f"{folder.name}_{index}.npz", image=resized, label=label[index])


def floor(raw: Path, out: Path, jobs: int, slices: int) -> None:
    script = Path(__file__).with_name("slicing_floor.py")
    subprocess.run([sys.executable, script, raw, out, str(slices), str(jobs)], check=True)
