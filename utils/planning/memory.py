"""What a training run will take, before it starts: memory as a function of the batch, and the time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from datasets.slices.neighbors import offsets_of
from datasets.slices.transforms import padded_size
from utils.planning.choices import PixelGrid
from utils.planning.dry_step import Measured, Trial
from utils.planning.fingerprint import Fingerprint
from utils.recipe.schema import ROOT

PIXELS = 200_000  # of the batch that is tried: what its images take is more than what differs from one run to the next
SMALLEST = 2  # images: networks normalize over a batch
CACHE_MB = 1024  # data.cache_mb, where a recipe does not say it
ROOM_ON_GPU = 0.9


@dataclass(frozen=True)
class Forecast:
    """What a run takes by its batch: bytes at the peak are a line through what was measured, and the data beside it.

    The line begins at what is held without images, and at no time.

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
        held = min(one.held for one in self.tried.values())
        return self.data + round(_line({0: held} | {size: one.peak for size, one in self.tried.items()}, batch))

    def minutes(self, batch: int, slices: int, val_slices: int, epochs: int) -> float:
        """Of a training."""
        step = _line({0: 0.0} | {size: one.seconds for size, one in self.tried.items()}, batch)
        largest = max(self.tried)
        validation = self.tried[largest].seconds_of_validation / largest
        return epochs * (max(1, slices // batch) * step + val_slices * validation) / 60


def _line(points: dict[int, float], batch: int) -> float:
    """The value at a batch of the line through those of the two largest."""
    low, high = sorted(points)[-2:]
    slope = max(0.0, (points[high] - points[low]) / (high - low))
    return points[low] + slope * (batch - low)


def forecast(trial: Trial, data: int, measure: Callable[[Trial], Measured] | None = None) -> Forecast:
    """Measure a small batch, and find the largest that fits: `trial.batch`, or half of it again and again.

    On a GPU, where a step takes no time but memory is less even, that batch is measured as well.

    data: bytes of the slices beside it. Raises ValueError where the smallest step fails or does not fit.
    """
    measure = measure or in_own_process
    first = max(SMALLEST, min(trial.batch, PIXELS // trial.side**2))
    found = measure(replace(trial, batch=first))
    on_gpu = found.device == "cuda"
    limit = int(ROOM_ON_GPU * found.limit) if on_gpu else found.limit
    result = _fitting(Forecast({first: found}, data, limit, trial.batch))
    while on_gpu and result.batch > max(result.tried):
        try:
            tried = result.tried | {result.batch: measure(replace(trial, batch=result.batch))}
            result = _fitting(replace(result, tried=tried))
        except ValueError:  # it did not fit after all
            result = replace(result, batch=result.batch // 2)
    if result.peak(result.batch) > limit:
        takes, has = (f"{size / 1e9:.1f} GB" for size in (result.peak(result.batch), limit))
        raise ValueError(
            f"training {trial.network['name']}: {result.batch} images of {trial.side} x {trial.side} take {takes}, "
            f"{has} may be used here: name a smaller network, or slice with a larger --spacing"
        )
    return result


def _fitting(one: Forecast) -> Forecast:
    """The same with the largest batch that fits, or the smallest one."""
    batch = one.batch
    while batch > SMALLEST and one.peak(batch) > one.limit:
        batch //= 2
    return replace(one, batch=batch)


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
