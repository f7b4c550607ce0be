"""DeepLabv3+: a teacher of EMKD's zoo."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from .blocks import conv_norm, initialize
from .xception import XceptionEncoder


class AtrousPyramid(nn.Module):
    """Atrous spatial pyramid: 1x1, three dilated 3x3 convolutions and the image's mean, fused to `out_channels`."""

    def __init__(self, in_channels: int, out_channels: int, dilations: tuple[int, ...] = (12, 24, 36)) -> None:
        super().__init__()
        self.point = conv_norm(in_channels, out_channels, 1)
        self.dilated = nn.ModuleList(conv_norm(in_channels, out_channels, dilation=dilation) for dilation in dilations)
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv_norm(in_channels, out_channels, 1))
        self.fuse = conv_norm(out_channels * (len(dilations) + 2), out_channels, 1)

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        pooled = F.interpolate(self.pooled(feature), size=feature.shape[-2:], mode="nearest")
        dilated = [layer(feature) for layer in self.dilated]
        return self.fuse(torch.cat([self.point(feature), *dilated, pooled], dim=1))


class DeepLabV3Plus(nn.Module):
    """DeepLabv3+ with an Xception-65 encoder at output stride 8 (Chen et al., ECCV 2018; EMKD's zoo).

    At 1/8: `encoder3` (entry flow), `encoder4` (middle flow), `bottleneck` (exit flow) and `decoder3` (atrous pyramid);
    `decoder2` is the refined feature at 1/4. EMKD's low and high are `encoder1` and `bottleneck`.
    The pyramid's mean is normalized over the batch: training needs at least 2 images. torchvision has no Xception,
    hence no `pretrained`. The zoo's 56.80 M parameters hold an unused 1000-class layer; without it they are 54.75 M.
    `as_published` computes what the zoo does, so that published weights score as they did. It aligns the corners when
    it upsamples, leaves the second pointwise convolution of the exit flow without its normalization (1,024 channels,
    2,048 parameters that the zoo lacks), and lets the first ReLU of a block overwrite its shortcut. The default
    does none of these.
    """

    taps: ClassVar[dict[str, str]] = {
        "encoder1": "encoder.stem",
        "encoder2": "encoder.quarter",
        "encoder3": "encoder.entry",
        "encoder4": "encoder.middle",
        "bottleneck": "encoder.exit",
        "decoder3": "pyramid",
        "decoder2": "refine",
    }

    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 2,
        pyramid_dropout: float = 0.5,
        dropout: float = 0.1,
        as_published: bool = False,
    ) -> None:
        super().__init__()
        self.as_published = as_published
        self.encoder = XceptionEncoder(in_channels, as_published)
        self.pyramid = AtrousPyramid(2048, 256)
        self.pyramid_dropout = nn.Dropout(pyramid_dropout)
        self.skip = conv_norm(128, 48)
        self.refine = nn.Sequential(conv_norm(256 + 48, 256), nn.Dropout(pyramid_dropout), conv_norm(256, 256))
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Conv2d(256, num_classes, 1))
        initialize(self)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(B, in_channels, H, W) -> logits (B, num_classes, H, W)."""
        _, encoder2, _, _, feature = self.encoder(image)
        skip = self.skip(encoder2)
        feature = self.pyramid_dropout(self.pyramid(feature))
        feature = F.interpolate(feature, size=skip.shape[-2:], mode="bilinear", align_corners=self.as_published)
        logits = self.head(self.refine(torch.cat([feature, skip], dim=1)))
        return F.interpolate(logits, size=image.shape[-2:], mode="bilinear", align_corners=self.as_published)
