"""ResNet-18, -34 and -50 with their classifier."""

from typing import ClassVar, Literal

import torch
from torch import nn

from .blocks import initialize
from .classifier_blocks import global_pool, linear_classifier
from .pretrained import load_pretrained
from .resnet import ENCODER_TAPS, ResNetEncoder


class ResNet(nn.Module):
    """ResNet (He et al., CVPR 2016): encoder, mean, linear layer.

    Taps: `encoder1` (64 channels at 1/2), `encoder2..4` and `bottleneck` (64, 128, 256, 512 channels at 1/4 to 1/32;
    four times as many with depth 50); `embedding` (B, 512 or 2048).
    `pretrained`: torchvision's file, its classifier ignored. Any image size.
    """

    taps: ClassVar[dict[str, str]] = {**ENCODER_TAPS, "embedding": "pool"}

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 2,
        depth: Literal[18, 34, 50] = 18,
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        self.encoder = ResNetEncoder(depth, in_channels)
        self.pool = global_pool()
        self.classifier = linear_classifier(self.encoder.channels[-1], num_classes)
        initialize(self.encoder)
        if pretrained is not None:
            load_pretrained(self.encoder, pretrained, "conv1.weight")

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(B, in_channels, H, W) -> logits (B, num_classes)."""
        return self.classifier(self.pool(self.encoder(image)[-1]))
