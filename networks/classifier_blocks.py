"""What the classification networks share: pooling to a vector, the last layer, the refusal of too small an image."""

import torch
from torch import nn


def global_pool() -> nn.Sequential:
    """Mean over the map: (B, C, h, w) -> (B, C)."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


def linear_classifier(in_features: int, num_classes: int) -> nn.Linear:
    """Last layer with weights of sd 0.01 and zero bias: the first loss is near log(K)."""
    classifier = nn.Linear(in_features, num_classes)
    nn.init.normal_(classifier.weight, std=0.01)
    nn.init.zeros_(classifier.bias)
    return classifier


def refuse_small(network: nn.Module, image: torch.Tensor, least: int) -> None:
    """Raises ValueError when a side of `image` (B, C, H, W) is below `least` pixels."""
    height, width = image.shape[-2:]
    if min(height, width) < least:
        raise ValueError(
            f"{type(network).__name__}: an image of {height}x{width} is too small, it needs at least {least}x{least}: "
            "set data.image_size"
        )


def refuse_other_size(network: nn.Module, image: torch.Tensor, image_size: int) -> None:
    """Raises ValueError unless `image` (B, C, H, W) has the side that a network with positions was built for."""
    height, width = image.shape[-2:]
    if (height, width) != (image_size, image_size):
        raise ValueError(
            f"{type(network).__name__} was built for images of {image_size}x{image_size}, not {height}x{width}: "
            "set network.image_size to data.image_size"
        )


def drop_branch(branch: torch.Tensor, probability: float, training: bool) -> torch.Tensor:
    """Stochastic depth (Huang et al., ECCV 2016): in training, zeros a sample's branch (B, ...) with `probability`.

    What stays is divided by 1 - probability.
    """
    if not training or probability == 0:
        return branch
    kept = torch.empty(len(branch), *[1] * (branch.ndim - 1), dtype=branch.dtype, device=branch.device)
    return branch * (kept.bernoulli_(1 - probability) / (1 - probability))
