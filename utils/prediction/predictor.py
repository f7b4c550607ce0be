"""Predicts as validation does, with one network or the mean of several: volumes slice by slice, images in batches.

Bounded memory: besides the volume and its labels there is a batch of slices and one block of predicted ones. A network
that learnt slices of a spacing in mm gets such slices; its logits return to the volume's grid before the argmax.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, Protocol

import numpy as np

from datasets.slices.arrays import Array, class_numbers, mirrored, on_host, softmax
from datasets.slices.resampling import Grid, asked_spacing, describe, grid_for, resampled
from datasets.slices.transforms import unpad
from datasets.volumes.geometry import iterate_slices
from datasets.volumes.reading import Statistics
from utils.prediction.answers import Answer, shared, union
from utils.prediction.blank import BlankSlices
from utils.prediction.channels import Channels, channels, stacked

VIEWS = ((), (-1,), (-2,), (-2, -1))  # axes to mirror
BLOCK_SLICES = 64  # slices gathered before they go to the volume: a cache line of it where they are its fastest axis


@dataclass
class Clock:
    """Seconds of wall time by stage; those of a stage within another are its own alone."""

    seconds: dict[str, float] = field(default_factory=dict)
    within: float = 0.0  # seconds of the stages that ended within the present one

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        started, before, self.within = time.perf_counter(), self.within, 0.0
        try:
            yield
        finally:
            elapsed = time.perf_counter() - started
            self.seconds[stage] = self.seconds.get(stage, 0.0) + elapsed - self.within
            self.within = before + elapsed


class Network(Protocol):
    """What a prediction asks: a network where it runs, with what it was trained on."""

    @property
    def preprocessing(self) -> Mapping[str, Any]: ...

    @property
    def sha256(self) -> str: ...

    def record(self) -> dict[str, Any]:
        """What runs it: device, threads, format, engine, engine_why."""

    def settle(self, images: np.ndarray) -> None:
        """Make ready by the first images (B, C, H, W) of many."""

    def __call__(self, images: np.ndarray) -> Array:
        """Logits (B, K, H, W) of slices or (B, K) of images, float32. images: float32 (B, C, H, W)."""


class Predictor:
    """Asks networks; their probabilities are averaged where there are several, or several views.

    Args:
        networks: Of one task; their windows and crops may differ.
        batch_size: Slices or images that go through a network together.
        flip: Average over the image as it is, mirrored along its rows, along its columns, and along both.
    """

    def __init__(self, networks: Sequence[Network], batch_size: int, flip: bool = False) -> None:
        self.networks, self.batch_size = networks, batch_size
        self.views = VIEWS if flip else VIEWS[:1]
        self.class_names: list[str] = networks[0].preprocessing["class_names"]

    def label(
        self,
        slices: np.ndarray,
        spacing: Sequence[float],
        statistics: Statistics,
        labels: np.ndarray,
        probabilities: Sequence[np.ndarray],
        clock: Clock,
        advance: Callable[[int], Any],
    ) -> None:
        """Fill `labels` (S, H, W) uint8 with class numbers and, if given, `probabilities` of the classes 1, 2, ...

        slices: (S, H, W) as `to_slices` gives them, of voxels of `spacing` mm along these axes; what is filled may be
        views of that kind too, each probability (S, H, W) float16.
        statistics: of the whole volume. advance: called with the number of slices after each batch.
        """
        count, *size = slices.shape
        answers = self._answers(slices, spacing, statistics, clock)
        is_native = not any(answer.grid.is_resampled for answer in answers)
        everywhere = tuple(slice(0, length) for length in size)
        for start in range(0, count, BLOCK_SLICES):
            length = min(BLOCK_SLICES, count - start)
            block = np.zeros((length, *size), np.uint8)
            shares = np.empty((len(probabilities), length, *size), np.float16)
            for first in range(0, length, self.batch_size):
                part = slice(first, min(first + self.batch_size, length))
                wanted = start + part.start, start + part.stop
                with clock("network"):
                    whole = is_native or bool(probabilities)
                    box = everywhere if whole else union(answer.box(*wanted) for answer in answers)
                with clock("network" if is_native else "postprocess"):
                    if box is not None:
                        scores, are_probabilities = self._scores(answer.take(*wanted, box) for answer in answers)
                        block[part, *box] = on_host(class_numbers(scores))
                    else:
                        for answer in answers:
                            answer.leave(wanted[1])
                    if probabilities:
                        scores = scores if are_probabilities else softmax(scores)
                        shares[:, part] = on_host(scores[:, 1:]).swapaxes(0, 1)
                advance(part.stop - part.start)
            with clock("postprocess"):
                labels[start : start + length] = block
                for whole_share, share in zip(probabilities, shares, strict=True):
                    whole_share[start : start + length] = share

    def stored_labels(
        self, slices: np.ndarray, spacing: Sequence[float], statistics: Statistics, clock: Clock
    ) -> tuple[Grid, np.ndarray]:
        """The grid that the only model sees a volume on, and its class numbers there (s, h, w); see `label`."""
        (answer,) = self._answers(slices, spacing, statistics, clock)
        return answer.grid, np.concatenate([on_host(class_numbers(batch)) for batch in answer.batches])

    def resampling(self, shape: Sequence[int], spacing: Sequence[float]) -> list[str]:
        """A line for each spacing that a volume (slices, rows, columns), of voxels of so many mm, is resampled to."""
        asked = dict.fromkeys(asked_spacing(network.preprocessing) for network in self.networks)
        grids = [(grid_for(shape, spacing, *each), each[0]) for each in asked]
        return [describe(grid, spacing, each) for grid, each in grids if grid.is_resampled]

    def classify(self, inputs: Sequence[np.ndarray]) -> np.ndarray:
        """Probabilities (B, K) of a batch of images, given as each network wants them: float32 (B, C, S, S)."""
        for network, images in zip(self.networks, inputs, strict=True):
            network.settle(images)
        answers = (
            network(mirrored(images, axes))
            for network, images in zip(self.networks, inputs, strict=True)
            for axes in self.views
        )
        scores, are_probabilities = self._scores(answers)
        return on_host(scores if are_probabilities else softmax(scores))

    def _scores(self, answers: Iterator[Array]) -> tuple[Array, bool]:
        """Logits where there is one answer, as validation has them; else the mean probabilities, and True."""
        count = len(self.networks) * len(self.views)
        if count == 1:
            return next(answers), False
        return sum(softmax(logits) for logits in answers) / count, True

    def _answers(
        self, slices: np.ndarray, spacing: Sequence[float], statistics: Statistics, clock: Clock
    ) -> list[Answer]:
        """What every network and view says of a volume; each slice of it is read once."""
        # as index.csv keeps them for validation
        mean, std = (float(f"{value:.9g}") for value in (statistics.mean, statistics.std))
        answers = []
        for network, source in zip(self.networks, shared(iterate_slices(slices), len(self.networks)), strict=True):
            grid = grid_for(slices.shape, spacing, *asked_spacing(network.preprocessing))
            around = channels(resampled(source, grid), grid, spacing[0], network.preprocessing, mean, std)
            inputs = self._inputs(around, clock)
            first = next(inputs)
            network.settle(first)
            inputs = chain([first], inputs)
            for axes, images in zip(self.views, shared(inputs, len(self.views)), strict=True):
                answers.append(Answer(grid, self._logits(network, axes, images, grid.stored[1:], clock)))
        return answers

    def _inputs(self, around: Iterator[Channels], clock: Clock) -> Iterator[np.ndarray]:
        """The channels of every stored slice as a network's batches (B, C, H, W)."""
        while True:
            with clock("preprocess"):
                image = stacked(islice(around, self.batch_size))
            if image is None:
                return
            yield image

    def _logits(
        self, network: Network, axes: tuple[int, ...], images: Iterator[np.ndarray], size: tuple[int, int], clock: Clock
    ) -> Iterator[Array]:
        """Logits (B, K, h, w) of batches of slices of `size` in a view of a network, mirrored back."""
        blank = BlankSlices()

        def ask(image: np.ndarray) -> Array:
            return unpad(mirrored(network(mirrored(image, axes)), axes), size)

        for image in images:
            with clock("network"):
                logits = blank.logits(image, ask)
            yield logits
