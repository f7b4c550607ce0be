"""A model on a device of torch's, as a prediction asks it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from datasets.slices.transforms import STRIDE
from utils.evaluation.inference import predict
from utils.evaluation.kind import IMAGES
from utils.prediction.folding import fold
from utils.runs.engines import FastestNetwork
from utils.runs.models import Model
from utils.training.device import Device


class OnDevice:
    """A model, its batch normalization folded, on a device.

    Args:
        model: Its network is moved, and may be changed.
        device: It has a precision; an ONNX file has a precision of its own.
    """

    def __init__(self, model: Model, device: Device) -> None:
        self.model, self.device = model, device
        self.channels_last = bool(model.training.get("channels_last", False))
        # in a mixed precision the folded weights would be rounded otherwise than in validation
        network = device.to_device(_folded(model) if device.precision == "32-true" else model.network)
        model.network = network.to(memory_format=torch.channels_last) if self.channels_last else network

    @property
    def preprocessing(self) -> Mapping[str, Any]:
        return self.model.preprocessing

    @property
    def sha256(self) -> str:
        return self.model.sha256

    def record(self) -> dict[str, Any]:
        """What ran it, for predictions.json."""
        model = self.model
        return {
            "device": self.device.device.type,
            "threads": torch.get_num_threads(),
            "format": model.format,
            "engine": model.engine,
            "engine_why": model.engine_why,
        }

    @torch.inference_mode()
    def settle(self, images: np.ndarray) -> None:
        """Let a network that has several engines choose one, by the first of these images (B, C, H, W)."""
        if isinstance(self.model.network, FastestNetwork):
            image = torch.from_numpy(images[:1])
            answer = partial(predict, self.device, image=image, channels_last=self.channels_last)
            self.model.network.settle(image, answer, self.device)

    @torch.inference_mode()
    def __call__(self, images: np.ndarray) -> Tensor:
        """Logits (B, K, H, W) of slices or (B, K) of images, float32 on the device. images: float32 (B, C, H, W)."""
        return predict(self.device, self.model.network, torch.from_numpy(images), self.channels_last)


def _folded(model: Model) -> nn.Module:
    """Its network with batch normalization folded, tried on noise of a size that all but a few networks take."""
    side = model.preprocessing["image_size"] if model.kind is IMAGES else 2 * STRIDE
    shape = (1, model.preprocessing.get("in_channels", 1), side, side)
    try:
        return fold(model.network, torch.rand(shape, generator=torch.Generator().manual_seed(0)))
    except (RuntimeError, ValueError):  # it takes images of another size only
        return model.network
