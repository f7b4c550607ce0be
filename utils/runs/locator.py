"""A locator: a small network whose foreground, with a margin around it, is the box that another network looks into.

The margin is measured on the val split and kept in locator.json, beside the checkpoint.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from datasets.files import write_text
from datasets.json_files import read_json
from datasets.slices.boxes import Box, beyond_mm, box_of, grown
from datasets.slices.dataset import SliceDataset
from datasets.slices.resampling import Grid, grid_of
from datasets.slices.source_labels import SourceLabels
from datasets.volumes.geometry import spacing_of
from utils.evaluation.volumes.components import components
from utils.runs.splits import predict_cases

RECALL = 0.999  # of a case's foreground, which the box must hold
SMALLEST_PART = 0.02  # of the largest component: smaller ones, such as single voxels, do not count
FILE = "locator.json"


@dataclass(frozen=True)
class Margin:
    """How far beyond its foreground a locator's box reaches, and what that is known from.

    Args:
        margin_mm: With it the box of every val case holds `RECALL` of the foreground.
        recall: The share of the foreground of all val cases in these boxes; `recall_without_margin`: in those of the
            network's own foreground.
        box_share: The mean share of a volume that the boxes take.
        cases: How many val cases there are; `without_box`: in how many of them the network found nothing, where the
            whole volume is the box.
        class_names: What the locator calls foreground.
        checkpoint_sha256: Of the locator's file.
        split_sha256: Of the split that the val cases belong to.
    """

    margin_mm: float
    recall: float
    recall_without_margin: float
    box_share: float
    cases: int
    without_box: int
    class_names: list[str]
    checkpoint_sha256: str
    split_sha256: str


def measure_margin(checkpoint: Mapping[str, Any], dataset: SliceDataset, network: nn.Module, sha256: str) -> Margin:
    """The margin that a locator needs on the val cases of its dataset.

    A case needs the margin that holds 99.9 % of its foreground. The largest of all cases counts, and one pixel more of
    the grid that the locator sees, since the cases to come are others. Raises ValueError where no case has foreground.
    """
    cases = list(_cases(checkpoint, dataset, network))
    held = [case for case in cases if len(case.missed)]
    if not held:
        raise ValueError(f"{dataset.root}: no val case has foreground: a margin cannot be measured")
    pixel = max(case.pixel_mm for case in cases)
    margin = math.ceil(max(np.quantile(case.missed, RECALL, method="higher") for case in held) + pixel)
    missed = np.concatenate([case.missed for case in held])
    return Margin(
        margin_mm=float(margin),
        recall=float((missed <= margin).mean()),
        recall_without_margin=float((missed == 0).mean()),
        box_share=float(np.mean([case.share(margin) for case in cases])),
        cases=len(cases),
        without_box=sum(case.box is None for case in cases),
        class_names=list(dataset.class_names),
        checkpoint_sha256=sha256,
        split_sha256=dataset.split_sha256,
    )


def box_found(labels: np.ndarray, grid: Grid) -> Box | None:
    """The box of what a locator found: `box_of` its components, but for those that are small beside the largest.

    labels: (slices, rows, columns) of the grid's stored voxels. None where it found nothing.
    """
    if not labels.any():
        return None
    numbers, sizes = components(labels > 0)
    counts = np.concatenate([[False], sizes >= SMALLEST_PART * sizes.max()])
    return box_of(counts[numbers], grid)


def write_margin(margin: Margin, checkpoint: Path) -> Path:
    """Write locator.json beside the checkpoint."""
    file = checkpoint.with_name(FILE)
    write_text(file, json.dumps(asdict(margin), indent=1) + "\n")
    return file


def read_margin(checkpoint: Path, sha256: str) -> Margin:
    """The margin of a locator. Raises ValueError where it was not measured, or for another checkpoint."""
    file = checkpoint.with_name(FILE)
    remedy = f"run scripts/evaluate.py --checkpoint {checkpoint.parent} --split val --margin"
    if not file.is_file():
        raise ValueError(f"{file}: is missing, so the margin of this locator is not known: {remedy}")
    try:
        margin = Margin(**read_json(file))
        is_sound = 0 <= margin.margin_mm < math.inf
    except (OSError, TypeError, ValueError):
        is_sound = False
    if not is_sound:
        raise ValueError(f"{file}: is damaged: {remedy}")
    if margin.checkpoint_sha256 != sha256:
        raise ValueError(f"{file}: is of another checkpoint than {checkpoint.name}: {remedy}")
    return margin


@dataclass(frozen=True)
class _Case:
    """A val case: its box, and how many mm that lacks of each foreground voxel of the source."""

    box: Box | None
    missed: np.ndarray
    shape: Sequence[int]
    millimeters: Sequence[float]
    pixel_mm: float

    def share(self, margin_mm: float) -> float:
        if self.box is None:
            return 1.0
        box = grown(self.box, margin_mm, self.millimeters, self.shape)
        return math.prod(part.stop - part.start for part in box) / math.prod(self.shape)


def _cases(checkpoint: Mapping[str, Any], dataset: SliceDataset, network: nn.Module) -> Iterator[_Case]:
    for volumes in predict_cases(dict(checkpoint), dataset, network=network, as_stored=True):
        folder = Path(dataset.root) / volumes.case
        geometry = read_json(folder / "geometry.json")
        grid = grid_of(geometry)
        target = volumes.target
        if grid.is_resampled:
            target = dataset.lookup[SourceLabels(folder).read(0, grid.source[0])]
        millimeters = [spacing_of(geometry["affine"])[axis] for axis in geometry["axes"]]
        box = box_found(volumes.prediction, grid)
        whole = tuple(slice(0, length) for length in grid.source)
        missed = beyond_mm(target > 0, box or whole, millimeters)
        yield _Case(box, missed, grid.source, millimeters, max(volumes.spacing[1:]))
