"""U-Net with a MobileNetV2 encoder: HLFD's UNet_MBNV2."""

from typing import ClassVar

import torch
from torch import nn

from .blocks import DECODER_TAPS, UpBlock, initialize
from .mobilenetv2 import load_mobilenetv2, mobilenetv2_features


class UNetMobileNetV2(nn.Module):
    """MobileNetV2 encoder, thin U-Net decoder to full resolution whose last skip is the image (HLFD's `UNet_MBNV2`).

    HLFD's last block has one channel, from which no head can separate more than two classes; here it has eight.
    """

    taps: ClassVar[dict[str, str]] = {
        "encoder1": "features.1",
        "encoder2": "features.3",
        "encoder3": "features.6",
        "encoder4": "features.13",
        "bottleneck": "features.17",
        **DECODER_TAPS,
    }

    def __init__(self, in_channels: int = 1, num_classes: int = 2, pretrained: str | None = None) -> None:
        super().__init__()
        self.features = nn.Sequential(*mobilenetv2_features(in_channels, strides=(1, 2, 2, 2, 1, 2, 1)))
        self.decoder4 = UpBlock(320, 96, 96)
        self.decoder3 = UpBlock(96, 32, 24)
        self.decoder2 = UpBlock(24, 24, 16)
        self.decoder1 = UpBlock(16, 16, 8)
        self.full_resolution = UpBlock(8, in_channels, 8)
        self.head = nn.Conv2d(8, num_classes, 1)
        initialize(self)
        if pretrained is not None:
            load_mobilenetv2(self.features, pretrained)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(B, in_channels, H, W) -> logits (B, num_classes, H, W)."""
        features = [image]
        for block in self.features:
            features.append(block(features[-1]))
        # features[n] is the output of block n - 1
        feature = self.decoder4(features[18], features[14])
        feature = self.decoder3(feature, features[7])
        feature = self.decoder2(feature, features[4])
        feature = self.decoder1(feature, features[2])
        return self.head(self.full_resolution(feature, image))
