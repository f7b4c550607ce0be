"""How far another form of a network is from the network itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

TOLERANCE = 1e-4  # of the largest logit


def probes(in_channels: int, side: int, fixed: bool) -> list[Tensor]:
    """Two batches of seeded noise: (2, C, side, side), and (3, C, side + 64, side + 32) unless the size is `fixed`.

    Smooth and rough parts, so that networks see areas as well as edges.
    """
    generator = torch.Generator().manual_seed(0)
    sizes = [(2, side, side), (3, side, side) if fixed else (3, side + 64, side + 32)]
    images = []
    for batch, height, width in sizes:
        coarse = torch.randn(batch, in_channels, height // 8, width // 8, generator=generator)
        fine = torch.randn(batch, in_channels, height, width, generator=generator)
        smooth = nn.functional.interpolate(coarse, (height, width), mode="bilinear", align_corners=False)
        images.append((smooth + 0.2 * fine).clamp(-1, 1))
    return images


@torch.inference_mode()
def compare(network: nn.Module, other: nn.Module, images: Sequence[Tensor]) -> list[dict[str, Any]]:
    """For each batch: largest difference of the logits, its share of the largest logit, share of other labels.

    Raises ValueError where the shapes of the answers differ.
    """
    rows = []
    for image in images:
        ours, theirs = network(image), other(image)
        if ours.shape != theirs.shape:
            raise ValueError(f"answers {tuple(theirs.shape)} where the network answers {tuple(ours.shape)}")
        difference, scale = float((ours - theirs).abs().max()), float(ours.abs().max())
        rows.append(
            {
                "shape": list(image.shape),
                "max_abs_difference": difference,
                "relative": difference / scale if scale else difference,
                "labels_differing": float((ours.argmax(1) != theirs.argmax(1)).double().mean()),
            }
        )
    return rows


def refuse_apart(rows: Sequence[dict[str, Any]], what: str) -> None:
    """Raises ValueError when a difference reaches 1e-4 of the largest logit, or is not a number."""
    worst = max(rows, key=lambda row: row["relative"] if row["relative"] == row["relative"] else float("inf"))
    if not worst["relative"] < TOLERANCE:
        raise ValueError(
            f"{what}: its logits are up to {worst['max_abs_difference']:.2g} from PyTorch's, {worst['relative']:.2g} "
            f"of the largest one, {TOLERANCE:g} is allowed: nothing was written; report this network"
        )
