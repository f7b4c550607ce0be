"""Predicts as validation does, with one network or the mean of several: volumes slice by slice, images in batches.

Bounded memory: besides the volume and its labels there is a batch of slices and one block of predicted ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datasets.slices.transforms import normalize, pad_center, padded_size, unpad
from datasets.volumes.geometry import iterate_slices
from datasets.volumes.reading import Statistics
from utils.evaluation.inference import predict
from utils.evaluation.metrics.labels import class_numbers
from utils.runs.engines import FastestNetwork
from utils.runs.models import Model
from utils.training.device import Device

VIEWS = ((), (-1,), (-2,), (-2, -1))  # axes to mirror
BLOCK_SLICES = 64  # slices gathered before they go to the volume: a cache line of it where they are its fastest axis


@dataclass
class Clock:
    """Seconds of wall time by stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - started


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
            network = device.to_device(model.network)
            model.network = network.to(memory_format=torch.channels_last) if _channels_last(model) else network

    @torch.inference_mode()
    def label(
        self,
        slices: np.ndarray,
        statistics: Statistics,
        labels: np.ndarray,
        probabilities: Sequence[np.ndarray],
        clock: Clock,
        advance: Callable[[int], Any],
    ) -> None:
        """Fill `labels` (S, H, W) uint8 with class numbers and, if given, `probabilities` of the classes 1, 2, ...

        slices: (S, H, W) as `to_slices` gives them; what is filled may be views of that kind too,
        each probability (S, H, W) float16.
        statistics: of the whole volume. advance: called with the number of slices after each batch.
        """
        # as index.csv keeps them for validation
        mean, std = (float(f"{value:.9g}") for value in (statistics.mean, statistics.std))
        source = iterate_slices(slices)
        count, *size = slices.shape
        for start in range(0, count, BLOCK_SLICES):
            length = min(BLOCK_SLICES, count - start)
            block = np.empty((length, *size), np.uint8)
            shares = np.empty((len(probabilities), length, *size), np.float16)
            for first in range(0, length, self.batch_size):
                part = slice(first, min(first + self.batch_size, length))
                with clock("preprocess"):
                    images = list(islice(source, part.stop - part.start))
                    inputs = [_input(images, model.preprocessing, mean, std) for model in self.models]
                self._settle(inputs)
                with clock("network"):
                    scores, are_probabilities = self._scores(inputs, tuple(size))
                    block[part] = class_numbers(scores).cpu().numpy()
                    if probabilities:
                        scores = scores if are_probabilities else scores.softmax(1)
                        shares[:, part] = scores[:, 1:].transpose(0, 1).half().cpu().numpy()
                advance(len(images))
            with clock("postprocess"):
                labels[start : start + length] = block
                for whole, share in zip(probabilities, shares, strict=True):
                    whole[start : start + length] = share

    @torch.inference_mode()
    def classify(self, inputs: Sequence[Tensor]) -> np.ndarray:
        """Probabilities (B, K) of a batch of images, given as each model wants them: (B, C, S, S)."""
        self._settle(inputs)
        scores, are_probabilities = self._scores(inputs, None)
        return (scores if are_probabilities else scores.softmax(1)).cpu().numpy()

    def _settle(self, inputs: Sequence[Tensor]) -> None:
        """Let the networks that have several engines choose one, by the first image of all."""
        for model, image in zip(self.models, inputs, strict=True):
            if isinstance(model.network, FastestNetwork):
                answer = partial(predict, self.device, image=image[:1], channels_last=_channels_last(model))
                model.network.settle(image[:1], answer, self.device.device)

    def _scores(self, inputs: Sequence[Tensor], size: tuple[int, int] | None) -> tuple[Tensor, bool]:
        """Logits where there is one answer, as validation has them; else the mean probabilities, and True."""
        answers = self._answers(inputs, size)
        if len(self.models) * len(self.views) == 1:
            return next(answers), False
        total = sum(logits.softmax(1) for logits in answers)
        return total / (len(self.models) * len(self.views)), True

    def _answers(self, inputs: Iterable[Tensor], size: tuple[int, int] | None) -> Iterator[Tensor]:
        """Logits of every model and view, mirrored back; (B, K, H, W) cut to `size`, or (B, K)."""
        for model, image in zip(self.models, inputs, strict=True):
            for axes in self.views:
                logits = predict(self.device, model.network, image.flip(axes), _channels_last(model))
                yield logits if size is None else unpad(logits.flip(axes), size)


def _channels_last(model: Model) -> bool:
    return bool(model.training.get("channels_last", False))


def _input(images: Sequence[np.ndarray], preprocessing: dict[str, Any], mean: float, std: float) -> Tensor:
    """Slices (H, W) of one size as a network's input (B, 1, H, W)."""
    size = padded_size(images[0].shape, preprocessing["crop"])
    window, value = preprocessing["window"], preprocessing["pad_value"]
    return torch.from_numpy(
        np.stack([pad_center(normalize(image, window, mean, std), size, value) for image in images])[:, None]
    )
