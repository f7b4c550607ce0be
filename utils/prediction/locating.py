"""The box of a volume that is predicted: a small network finds it, the others look only there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datasets.slices.boxes import Box, at_least, deeper, grown
from datasets.slices.neighbors import offsets_of
from datasets.slices.resampling import asked_spacing, grid_for
from datasets.slices.transforms import padded_size
from datasets.volumes.reading import Statistics
from utils.prediction.predictor import Clock, Network, Predictor
from utils.runs.locator import Margin, box_found, read_margin
from utils.runs.models import Model, load_model
from utils.training import checkpoints


class Locator:
    """Finds the box of the foreground, as large as its margin and the networks that look into it want it.

    Args:
        predictor: Of the locator alone.
        margin: What was measured of it.
        networks: Those that look into the box.
    """

    def __init__(self, predictor: Predictor, margin: Margin, networks: Sequence[Network]) -> None:
        self.predictor, self.margin, self.networks = predictor, margin, networks

    @property
    def sha256(self) -> str:
        return self.margin.checkpoint_sha256

    def box(self, slices: np.ndarray, spacing: Sequence[float], statistics: Statistics, clock: Clock) -> Box | None:
        """The part of a volume (slices, rows, columns) to look into; None where the locator finds nothing.

        spacing: mm of its voxels along these axes. statistics: of the whole volume.
        """
        grid, labels = self.predictor.stored_labels(slices, spacing, statistics, clock)
        found = box_found(labels, grid)
        if found is None:
            return None
        box = grown(found, self.margin.margin_mm, spacing, slices.shape)
        for network in self.networks:
            box = at_least(box, _taken(box, network, spacing), slices.shape)
        return deeper(box, max(reach(network, spacing[0]) for network in self.networks), slices.shape)


def _taken(box: Box, network: Network, spacing: Sequence[float]) -> tuple[int, int]:
    """Rows and columns of the source that fill a network's input: it would be padded to so many."""
    shape = [part.stop - part.start for part in box]
    grid = grid_for(shape, spacing, *asked_spacing(network.preprocessing))
    padded = padded_size(grid.stored[1:], network.preprocessing["crop"])
    rows, columns = (
        each * length // stored for each, length, stored in zip(padded, shape[1:], grid.stored[1:], strict=True)
    )
    return rows, columns


def reach(network: Network, slice_mm: float) -> int:
    """How many slices of the source lie between a slice and the farthest neighbor that a network sees of it."""
    seen, slice_spacing = network.preprocessing, asked_spacing(network.preprocessing)[1]
    slab = grid_for((1, 1, 1), (slice_mm, 1.0, 1.0), None, slice_spacing).slab
    return slab * offsets_of(seen.get("neighbors", 0), seen.get("neighbor_mm"), slice_mm * slab)[-1]


def other_split(margin: Margin, models: Sequence[Model]) -> str | None:
    """A line where a locator was trained on another split of the patients than a checkpoint that looks into its box."""
    for model in models:
        if model.format == "checkpoint" and checkpoints.load(model.path)["split"]["sha256"] != margin.split_sha256:
            why = "it may have seen the patients that a test of both is read on"
            return f"the locator was trained on another split of the patients than {model.path}: {why}"
    return None


def load_locator(path: Path, models: Sequence[Model]) -> tuple[Model, Margin]:
    """A locator and its margin.

    Raises ValueError where the margin is not known, or the locator learned from images of another kind than `models`.
    """
    model = load_model(path)
    theirs, ours = (each.preprocessing.get("modality", "images") for each in (model, models[0]))
    if theirs != ours:
        raise ValueError(f"--locate {path}: learned from {theirs}, {models[0].path} from {ours}: give a locator of it")
    return model, read_margin(model.path, model.sha256)
