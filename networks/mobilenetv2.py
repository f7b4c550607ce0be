"""MobileNetV2: the inverted-residual encoder with torchvision's parameter names, and EMKD's student."""

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from .blocks import conv_norm, initialize
from .pretrained import load_pretrained


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise 3x3, linear 1x1; a shortcut where the shape stays."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = in_channels * expansion
        self.shortcut = stride == 1 and in_channels == out_channels
        layers = [conv_norm(in_channels, width, 1, activation=nn.ReLU6)] if expansion != 1 else []
        layers += [
            conv_norm(width, width, 3, stride, groups=width, activation=nn.ReLU6),
            nn.Conv2d(width, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        ]
        self.conv = nn.Sequential(*layers)

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        return feature + self.conv(feature) if self.shortcut else self.conv(feature)


def mobilenetv2_features(in_channels: int, strides: Sequence[int]) -> list[nn.Module]:
    """The stem and 17 inverted residuals of MobileNetV2 (Sandler et al., CVPR 2018), blocks 0 to 17.

    `strides`: of the seven stages of 16, 24, 32, 64, 96, 160 and 320 channels, after the stem's 2.
    They end at blocks 1, 3, 6, 10, 13, 16 and 17.
    """
    blocks: list[nn.Module] = [conv_norm(in_channels, 32, stride=2, activation=nn.ReLU6)]
    channels = 32
    stages = ((1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1))
    for (expansion, out_channels, repeats), stride in zip(stages, strides, strict=True):
        for index in range(repeats):
            blocks.append(InvertedResidual(channels, out_channels, stride if index == 0 else 1, expansion))
            channels = out_channels
    return blocks


class MobileNetV2(nn.Module):
    """MobileNetV2 at output stride 8 with a 1x1 head and bilinear upsampling (EMKD's student).

    EMKD drops two strides without dilation, so features are at 1/2 (up to 24 channels), 1/4 (32 to 96) and 1/8 (160 to
    1280): `encoder1` is EMKD's low (32 at 1/2), `bottleneck` its high (1280 at 1/8). It has no decoder to tap.
    EMKD's code also holds a classifier that nothing calls (2,562 parameters with 2 classes). `as_published` aligns the
    corners when it upsamples, as EMKD does, so that published weights score as they did; the default does not.
    """

    taps: ClassVar[dict[str, str]] = {
        "encoder1": "features.0",
        "encoder2": "features.13",
        "encoder3": "features.16",
        "encoder4": "features.17",
        "bottleneck": "features.18",
    }

    def __init__(
        self, in_channels: int = 1, num_classes: int = 2, as_published: bool = False, pretrained: str | None = None
    ) -> None:
        super().__init__()
        self.as_published = as_published
        blocks = mobilenetv2_features(in_channels, strides=(1, 1, 2, 1, 1, 2, 1))
        self.features = nn.Sequential(*blocks, conv_norm(320, 1280, 1, activation=nn.ReLU6))
        self.head = nn.Conv2d(1280, num_classes, 1)
        initialize(self)
        if pretrained is not None:
            load_mobilenetv2(self.features, pretrained)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(B, in_channels, H, W) -> logits (B, num_classes, H, W)."""
        logits = self.head(self.features(image))
        return F.interpolate(logits, size=image.shape[-2:], mode="bilinear", align_corners=self.as_published)


def load_mobilenetv2(features: nn.Sequential, path: str) -> None:
    """Load torchvision's MobileNetV2 into `features`, in place; blocks it does not have are ignored."""
    ignored = ("classifier.", *(f"features.{index}." for index in range(len(features), 19)))
    load_pretrained(nn.ModuleDict({"features": features}), path, "features.0.0.weight", ignored)
