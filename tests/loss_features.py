"""Losses, features and labels for the tests of losses."""

import torch
from torch import nn

from utils.distillation.losses import DISTILLATION_LOSSES
from utils.recipe.registry import build


def make(name: str, num_classes: int = 3, **arguments) -> nn.Module:
    """A distillation loss as a recipe makes it: the number of classes reaches those that take it."""
    return build(DISTILLATION_LOSSES, {"name": name, **arguments}, name, num_classes=num_classes)


def features(channels: int = 4, size: int = 16, batch: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(seed))


def labels(size: int = 32, batch: int = 2) -> torch.Tensor:
    """Three classes in every image."""
    target = torch.zeros(batch, 1, size, size, dtype=torch.int64)
    target[:, :, 4:20, 6:24] = 1
    target[:, :, 8:13, 9:12] = 2
    return target


def row(*pixels: tuple[float, float]) -> torch.Tensor:
    """An image of one row, two channels: (1, 2, 1, len(pixels))."""
    return torch.tensor(pixels).T.reshape(1, 2, 1, -1)
