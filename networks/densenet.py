"""DenseNet-121, MONAI's."""

from typing import ClassVar

import torch
from torch import nn

from .classifier_blocks import linear_classifier, refuse_small


class DenseNet121(nn.Module):
    """DenseNet-121 (Huang et al., CVPR 2017).

    Taps: `encoder1` (64 channels at 1/2), `encoder2..4` (256, 512, 1024 channels at 1/4, 1/8, 1/16: the dense blocks
    before their transitions), `bottleneck` (1024 at 1/32), `embedding` (B, 1024). Images of at least 29x29.
    """

    taps: ClassVar[dict[str, str]] = {
        "encoder1": "features.relu0",
        "encoder2": "features.denseblock1",
        "encoder3": "features.denseblock2",
        "encoder4": "features.denseblock3",
        "bottleneck": "pool.relu",
        "embedding": "pool",
    }

    def __init__(self, in_channels: int = 3, num_classes: int = 2, dropout: float = 0.0) -> None:
        super().__init__()
        from monai.networks.nets import DenseNet121 as Monai  # loads all of MONAI's networks

        network = Monai(spatial_dims=2, in_channels=in_channels, out_channels=num_classes, dropout_prob=dropout)
        self.features = network.features
        self.pool = network.class_layers[:-1]  # ReLU, mean, flatten
        self.classifier = linear_classifier(network.class_layers.out.in_features, num_classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(B, in_channels, H, W) -> logits (B, num_classes)."""
        refuse_small(self, image, 29)
        return self.classifier(self.pool(self.features(image)))
