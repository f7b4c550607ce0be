"""Images as vectors: what a network computes at its taps, pooled."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from datasets.images.transforms import Preparation
from utils.distillation.taps import tap
from utils.training import checkpoints


def classifier(path: str | Path) -> tuple[nn.Module, Preparation]:
    """A checkpoint's network, and how an image is prepared for it.

    Raises ValueError for a checkpoint that was not trained on labeled images.
    """
    checkpoint = checkpoints.load(path)
    return checkpoints.rebuild(checkpoint), preparation_of(checkpoint, path)


def preparation_of(checkpoint: dict[str, Any], path: str | Path) -> Preparation:
    """How an image is prepared for a checkpoint's network; `path` is for the message."""
    content, names = checkpoint["preprocessing"], [field.name for field in fields(Preparation)]
    if not set(names) <= set(content):
        raise ValueError(f"{path}: was not trained on whole images: give the checkpoint of a classification network")
    return Preparation(**{name: content[name] for name in names})


@torch.no_grad()
def embed(
    fabric: Fabric, network: nn.Module, taps: Sequence[str], images: Iterable[Tensor]
) -> Iterator[tuple[Tensor, Tensor]]:
    """For each batch (B, C, H, W) the embeddings (B, D) and logits (B, K), float32 on the CPU.

    A map (B, C, h, w) counts as its mean over places, tokens (B, N, C) as their mean; several taps follow each other.
    Raises ValueError for a tap that the network does not have.
    """
    network = fabric.to_device(network).eval()
    for batch in images:
        with fabric.autocast():
            features = tap(network, fabric.to_device(batch), taps)
        yield torch.cat([_pooled(features[name]) for name in taps], 1), features["logits"].float().cpu()


def _pooled(feature: Tensor) -> Tensor:
    feature = feature.float()
    if feature.ndim == 4:
        feature = feature.mean((2, 3))
    elif feature.ndim == 3:
        feature = feature.mean(1)
    return feature.cpu()
