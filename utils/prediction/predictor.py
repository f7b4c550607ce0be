"""Predicts as validation does, with one network or the mean of several: volumes slice by slice, images in batches.

Bounded memory: besides the volume and its labels there is a batch of slices and one block of predicted ones. A network
that learnt slices of a spacing in mm gets such slices; its logits return to the volume's grid before the argmax.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from datasets.slices.resampling import Grid, asked_spacing, describe, grid_for, resampled
from datasets.slices.transforms import STRIDE, unpad
from datasets.volumes.geometry import iterate_slices
from datasets.volumes.reading import Statistics
from utils.evaluation.inference import predict
from utils.evaluation.kind import IMAGES
from utils.evaluation.metrics.labels import class_numbers
from utils.prediction.answers import Answer, shared, union
from utils.prediction.blank import BlankSlices
from utils.prediction.channels import Channels, channels, stacked
from utils.prediction.folding import fold
from utils.runs.engines import FastestNetwork
from utils.runs.models import Model
from utils.training.device import Device

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


class Predictor:
    """Runs models on a device; their probabilities are averaged where there are several, or several views.

    Args:
        models: Of one task; their windows and crops may differ.
        device: It has a precision; an ONNX file has a precision of its own.
        batch_size: Slices or images that go through a network together.
        flip: Average over the image as it is, mirrored along its rows, along its columns, and along both.
    """

    def __init__(self, models: Sequence[Model], device: Device, batch_size: int, flip: bool = False) -> None:
        self.models, self.device, self.batch_size = models, device, batch_size
        self.views = VIEWS if flip else VIEWS[:1]
        self.class_names: list[str] = models[0].preprocessing["class_names"]
        for model in models:
            # in a mixed precision the folded weights would be rounded otherwise than in validation
            network = device.to_device(_folded(model) if device.precision == "32-true" else model.network)
            model.network = network.to(memory_format=torch.channels_last) if _channels_last(model) else network

    @torch.inference_mode()
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
                        block[part, *box] = class_numbers(scores).cpu().numpy()
                    else:
                        for answer in answers:
                            answer.leave(wanted[1])
                    if probabilities:
                        scores = scores if are_probabilities else scores.softmax(1)
                        shares[:, part] = scores[:, 1:].transpose(0, 1).half().cpu().numpy()
                advance(part.stop - part.start)
            with clock("postprocess"):
                labels[start : start + length] = block
                for whole_share, share in zip(probabilities, shares, strict=True):
                    whole_share[start : start + length] = share

    @torch.inference_mode()
    def stored_labels(
        self, slices: np.ndarray, spacing: Sequence[float], statistics: Statistics, clock: Clock
    ) -> tuple[Grid, np.ndarray]:
        """The grid that the only model sees a volume on, and its class numbers there (s, h, w); see `label`."""
        (answer,) = self._answers(slices, spacing, statistics, clock)
        return answer.grid, np.concatenate([class_numbers(batch).byte().cpu().numpy() for batch in answer.batches])

    def resampling(self, shape: Sequence[int], spacing: Sequence[float]) -> list[str]:
        """A line for each spacing that a volume (slices, rows, columns), of voxels of so many mm, is resampled to."""
        asked = dict.fromkeys(asked_spacing(model.preprocessing) for model in self.models)
        grids = [(grid_for(shape, spacing, *each), each[0]) for each in asked]
        return [describe(grid, spacing, each) for grid, each in grids if grid.is_resampled]

    @torch.inference_mode()
    def classify(self, inputs: Sequence[Tensor]) -> np.ndarray:
        """Probabilities (B, K) of a batch of images, given as each model wants them: (B, C, S, S)."""
        for model, image in zip(self.models, inputs, strict=True):
            self._settle(model, image)
        answers = (
            predict(self.device, model.network, _mirrored(image, axes), _channels_last(model))
            for model, image in zip(self.models, inputs, strict=True)
            for axes in self.views
        )
        scores, are_probabilities = self._scores(answers)
        return (scores if are_probabilities else scores.softmax(1)).cpu().numpy()

    def _settle(self, model: Model, image: Tensor) -> None:
        """Let a network that has several engines choose one, by the first image of all."""
        if isinstance(model.network, FastestNetwork):
            answer = partial(predict, self.device, image=image[:1], channels_last=_channels_last(model))
            model.network.settle(image[:1], answer, self.device)

    def _scores(self, answers: Iterator[Tensor]) -> tuple[Tensor, bool]:
        """Logits where there is one answer, as validation has them; else the mean probabilities, and True."""
        count = len(self.models) * len(self.views)
        if count == 1:
            return next(answers), False
        return sum(logits.softmax(1) for logits in answers) / count, True

    def _answers(
        self, slices: np.ndarray, spacing: Sequence[float], statistics: Statistics, clock: Clock
    ) -> list[Answer]:
        """What every model and view says of a volume; each slice of it is read once."""
        # as index.csv keeps them for validation
        mean, std = (float(f"{value:.9g}") for value in (statistics.mean, statistics.std))
        answers = []
        for model, source in zip(self.models, shared(iterate_slices(slices), len(self.models)), strict=True):
            grid = grid_for(slices.shape, spacing, *asked_spacing(model.preprocessing))
            around = channels(resampled(source, grid), grid, spacing[0], model.preprocessing, mean, std)
            inputs = self._inputs(around, clock)
            first = next(inputs)
            self._settle(model, first)
            inputs = chain([first], inputs)
            for axes, images in zip(self.views, shared(inputs, len(self.views)), strict=True):
                answers.append(Answer(grid, self._logits(model, axes, images, grid.stored[1:], clock)))
        return answers

    def _inputs(self, around: Iterator[Channels], clock: Clock) -> Iterator[Tensor]:
        """The channels of every stored slice as a model's batches (B, C, H, W)."""
        while True:
            with clock("preprocess"):
                image = stacked(islice(around, self.batch_size))
            if image is None:
                return
            yield image

    def _logits(
        self, model: Model, axes: tuple[int, ...], images: Iterator[Tensor], size: tuple[int, int], clock: Clock
    ) -> Iterator[Tensor]:
        """Logits (B, K, h, w) of batches of slices of `size` in a view of a model, mirrored back."""
        blank = BlankSlices()

        def ask(image: Tensor) -> Tensor:
            logits = predict(self.device, model.network, _mirrored(image, axes), _channels_last(model))
            return unpad(_mirrored(logits, axes), size)

        for image in images:
            with clock("network"):
                logits = blank.logits(image, ask)
            yield logits


def _mirrored(image: Tensor, axes: tuple[int, ...]) -> Tensor:
    """A copy that is mirrored along the axes; the image itself where there are none."""
    return image.flip(axes) if axes else image


def _folded(model: Model) -> nn.Module:
    """Its network with batch normalization folded, tried on noise of a size that all but a few networks take."""
    side = model.preprocessing["image_size"] if model.kind is IMAGES else 2 * STRIDE
    shape = (1, model.preprocessing.get("in_channels", 1), side, side)
    try:
        return fold(model.network, torch.rand(shape, generator=torch.Generator().manual_seed(0)))
    except (RuntimeError, ValueError):  # it takes images of another size only
        return model.network


def _channels_last(model: Model) -> bool:
    return bool(model.training.get("channels_last", False))
