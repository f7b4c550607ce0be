"""What a training run will take, before it starts: memory as a function of the batch, and the time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace

import numpy as np

from datasets.slices.neighbors import offsets_of
from datasets.slices.transforms import padded_size
from utils.planning.choices import PixelGrid
from utils.planning.dry_step import Measured, Trial
from utils.planning.fingerprint import Fingerprint
from utils.recipe.schema import ROOT

PART = 4  # of the batch wanted: a fourth of it is tried first
SMALLEST = 2  # images: networks normalize over a batch
CACHE_MB = 1024  # data.cache_mb, where a recipe does not say it
ROOM_ON_GPU = 0.9


@dataclass(frozen=True)
class Forecast:
    """What a run takes by its batch: bytes at the peak are a line through what was measured, and the data beside it.

    Args:
        tried: By batch.
        data: Bytes of the decoded slices that stay in memory.
        limit: Bytes that a run may take.
        batch: The largest that fits, of the one wanted and its halves.
    """

    tried: dict[int, Measured]
    data: int
    limit: int
    batch: int

    @property
    def device(self) -> str:
        return next(iter(self.tried.values())).device

    def peak(self, batch: int) -> int:
        """Bytes."""
        return self.data + _line(self.tried, batch, lambda one: one.peak)

    def minutes(self, batch: int, slices: int, val_slices: int, epochs: int) -> float:
        """Of a training."""
        step = _line(self.tried, batch, lambda one: one.seconds)
        largest = max(self.tried)
        validation = self.tried[largest].seconds_of_validation / largest
        return epochs * (max(1, slices // batch) * step + val_slices * validation) / 60


def _line(tried: dict[int, Measured], batch: int, of: Callable[[Measured], float]) -> float:
    """The value at a batch of the line through the two that were tried; where one was, its own."""
    low, high = min(tried), max(tried)
    if low == high:
        return of(tried[low])
    slope = max(0.0, (of(tried[high]) - of(tried[low])) / (high - low))
    return of(tried[low]) + slope * (batch - low)


def forecast(trial: Trial, data: int, measure: Callable[[Trial], Measured] | None = None) -> Forecast:
    """Measure two batches, and find the largest that fits: `trial.batch`, or half of it again and again.

    data: bytes of the slices beside it. Raises ValueError where the smallest step fails or does not fit.
    """
    measure = measure or in_own_process
    first = max(SMALLEST, trial.batch // PART)
    tried = {first: measure(replace(trial, batch=first))}
    # A batch takes at most PART times what a batch of that part takes: if so much fits, the batch itself is tried.
    second = trial.batch if PART * tried[first].peak <= tried[first].limit else max(first, trial.batch // 2)
    if second not in tried:
        with suppress(ValueError):  # it did not fit after all
            tried[second] = measure(replace(trial, batch=second))
    limit = min(one.limit for one in tried.values())
    if next(iter(tried.values())).device == "cuda":
        limit = int(ROOM_ON_GPU * limit)
    batch = trial.batch
    result = Forecast(tried, data, limit, batch)
    while batch > SMALLEST and (result.peak(batch) > limit or (len(tried) < 2 and batch > max(tried))):
        batch //= 2
    if result.peak(batch) > limit:
        takes, has = (f"{size / 1e9:.1f} GB" for size in (result.peak(batch), limit))
        raise ValueError(
            f"training {trial.network['name']}: {batch} images of {trial.side} x {trial.side} take {takes}, {has} may "
            "be used here: name a smaller network, or slice with a larger --spacing"
        )
    return replace(result, batch=batch)


def in_own_process(trial: Trial) -> Measured:
    """The measurement of a fresh process, whose peak is its own. Raises ValueError where it fails."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, "-m", "utils.planning.dry_step"],
        input=json.dumps(asdict(trial)),
        env=dict(os.environ) | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"it ended with status {done.returncode}"])[-1]
        raise ValueError(f"a step of {trial.network['name']} with {trial.batch} images cannot be tried: {last}")
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def data_bytes(
    fingerprint: Fingerprint, grid: PixelGrid, thin: float, neighbors: int, neighbor_mm: float | None
) -> int:
    """Bytes of the decoded slices that a run keeps in memory: train and val, each where it is small enough.

    thin: the share of the training slices without foreground that are samples. The neighbors of samples are kept too.
    """
    total, wanted, random = 0, set(fingerprint.classes[1]), np.random.default_rng(0)
    for split, share in (("train", thin), ("val", 1.0)):
        size = 0
        for case in fingerprint.of(split):
            samples = [bool(wanted.intersection(labels)) or random.random() < share for labels in case.labels]
            slice_mm = 1.0 if neighbor_mm is None or case.spacing is None else case.spacing[0]
            offsets = offsets_of(neighbors, neighbor_mm, slice_mm)
            rows, columns = grid.size(case)
            size += _held(np.flatnonzero(samples), len(samples), offsets) * rows * columns * (case.itemsize + 1)
        total += size if size <= CACHE_MB * 2**20 else 0
    return total


def _held(samples: np.ndarray, count: int, offsets: Sequence[int]) -> int:
    """How many of `count` slices of a case are samples, or their neighbors, see `offsets_of`."""
    return len(np.unique(np.clip(samples[:, None] + np.array(offsets), 0, count - 1)))


def validation_size(fingerprint: Fingerprint, grid: PixelGrid, crop: int) -> tuple[int, int]:
    """(height, width) of the largest val image as a network sees it."""
    cases = fingerprint.of("val") or fingerprint.training
    sizes = [padded_size(grid.size(case), crop) for case in cases]
    return max(sizes, key=lambda size: size[0] * size[1])
