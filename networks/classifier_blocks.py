"""What the classification networks share: pooling to a vector, the last layer, the refusal of too small an image."""

import torch
from torch import nn


def global_pool() -> nn.Sequential:
    """Mean over the map: (B, C, h, w) -> (B, C)."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


def linear_classifier(in_features: int, num_classes: int) -> nn.Linear:
    """Last layer with weights of sd 0.01 and zero bias: the first loss is log(K), whatever the feature's scale."""
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
