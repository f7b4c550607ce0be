"""How much the benchmark of a GPU measures, and what its parts share."""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

Row = dict[str, Any]


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Args:
        side: Of a slice in pixels; `crop` is what a training sees of it.
        slices: In each volume.
        volumes: Of these slices, for train, val and test.
        small_volumes: The same of slices of 64x64.
        batches: Images of the steps; a training has the second.
        rounds: Timed steps of each way.
        epochs: Of a training, the first of which is not timed.
        small_batch: Images of 64x64 in a step of the small U-Nets.
        small_epochs: Of a training of these.
        at_once: Trainings of the narrow one that share the device.
        volume: Slices of the predicted volume.
        matrix: Side of the matrices of the ceiling.
        flags: Of every training.
    """

    side: int = 512
    crop: int = 384
    slices: int = 216
    volumes: tuple[int, int, int] = (24, 3, 1)
    small_volumes: tuple[int, int, int] = (120, 15, 1)
    batches: tuple[int, ...] = (4, 16, 64)
    rounds: int = 20
    epochs: int = 4
    small_batch: int = 128
    small_epochs: int = 10
    at_once: tuple[int, ...] = (1, 4)
    volume: int = 400
    matrix: int = 8192
    flags: tuple[str, ...] = ()


ON_CPU = Size(
    side=64,
    crop=32,
    slices=3,
    volumes=(3, 1, 1),
    small_volumes=(3, 1, 1),
    batches=(2, 4),
    rounds=1,
    epochs=2,
    small_batch=4,
    small_epochs=2,
    at_once=(1,),
    volume=2,
    matrix=256,
    flags=(
        '--network={"name": "unet", "widths": [4, 4, 4, 4, 4]}',
        "--training.share_every=0",
        "--training.pictures=0",
    ),
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

    def step(self, count: int, way: str) -> Row:
        """The row of a step that was measured; empty where it was not."""
        rows = self.rows.get("steps", ())
        return next((row for row in rows if (row["images"], row["step"]) == (count, way)), {})


def free_memory() -> None:
    """Gives the memory of what is no longer used back to the GPU."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
