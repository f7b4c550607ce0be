"""Several teachers as one network: their mean answers, and taps of each under its name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from datasets.slices.neighbors import middle


class Ensemble(nn.Module):
    """The weighted mean of several networks' probabilities, as logits: its logarithm.

    `taps` has those of each network behind its name, `big/encoder3`, and its answer, `big/logits`.

    Args:
        networks: By name.
        weights: (networks, num_classes), at least 0; those of a class are divided by their sum. Where classes have
            other weights, the means are brought to add up to 1.
        channels: How many of the image's channels each network takes, those in the middle.
    """

    def __init__(self, networks: Mapping[str, nn.Module], weights: Tensor, channels: Sequence[int]) -> None:
        super().__init__()
        self.networks, self.channels = nn.ModuleDict(networks), list(channels)
        self.register_buffer("log_weights", (weights / weights.sum(0)).log())
        self.taps = {
            f"{name}/{tap}": f"networks.{name}.{path}"
            for name, network in networks.items()
            for tap, path in getattr(network, "taps", {}).items()
        } | {f"{name}/logits": f"networks.{name}" for name in networks}

    def forward(self, image: Tensor) -> Tensor:
        """image (B, C, H, W) -> log-probabilities (B, K, H, W) or (B, K), float32."""
        answers = [
            network(middle(image, channels)).float().log_softmax(1)
            for network, channels in zip(self.networks.values(), self.channels, strict=True)
        ]
        weighted = [
            answer + weight.view(-1, *(1,) * (answer.ndim - 2))
            for answer, weight in zip(answers, self.log_weights, strict=True)
        ]
        return torch.stack(weighted).logsumexp(0).log_softmax(1)


def teacher_weights(sections: Sequence[Mapping[str, Any]], class_names: Sequence[str], num_classes: int) -> Tensor:
    """The weights (teachers, num_classes) that a recipe's `teachers` give: a number each, or one a class, else 1.

    Raises ValueError for a class that is not there, and for one that no teacher has a weight for.
    """
    names = [*["background"] * (num_classes - len(class_names)), *class_names]
    rows = []
    for section in sections:
        weight = section.get("weight", 1.0)
        by_class = weight if isinstance(weight, dict) else dict.fromkeys(names, weight)
        if unknown := [name for name in by_class if name not in names]:
            raise ValueError(
                f"teachers: {section['name']}: weight has no class {unknown[0]!r}: choose from {', '.join(names)}"
            )
        rows.append([float(by_class.get(name, 1.0)) for name in names])
    weights = torch.tensor(rows)
    if without := [name for name, total in zip(names, weights.sum(0).tolist(), strict=True) if not total]:
        raise ValueError(f"teachers: none has a weight for {without[0]}: give one of them a weight above 0")
    return weights
