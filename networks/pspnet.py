"""PSPNet: a teacher of EMKD."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from .blocks import conv_norm, initialize
from .pretrained import load_pretrained
from .resnet import ENCODER_TAPS, ResNetEncoder


class PyramidPooling(nn.Module):
    """Append the feature's means on 1x1, 2x2, 3x3 and 6x6 grids to it, and fuse."""

    def __init__(self, in_channels: int, out_channels: int, align_corners: bool) -> None:
        super().__init__()
        self.align_corners = align_corners
        width = in_channels // 4
        self.levels = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(size), conv_norm(in_channels, width, 1)) for size in (1, 2, 3, 6)
        )
        self.fuse = conv_norm(in_channels + 4 * width, out_channels)

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        levels = [
            F.interpolate(level(feature), size=feature.shape[-2:], mode="bilinear", align_corners=self.align_corners)
            for level in self.levels
        ]
        return self.fuse(torch.cat([feature, *levels], dim=1))


class PSPNet(nn.Module):
    """Dilated ResNet, pyramid pooling, 1x1 head, bilinear upsampling (Zhao et al., CVPR 2017).

    Defaults are EMKD's teacher: `depth` 50, `output_stride` 8, a stem of three 3x3 convolutions. `depth` 18 has as many
    parameters as SKD's student but for its auxiliary head, and is not that network: SKD's pyramid has leaky ReLUs
    (slope 0.01), and its pooling rounds sizes up. At output stride 8 `encoder3`, `encoder4`, `bottleneck` and
    `decoder3` (the pyramid's output, SKD's feature) are all at 1/8; EMKD's low and high are `encoder1` and
    `bottleneck`. `pretrained` (torchvision's weights) needs `deep_stem` false. The 1x1 pyramid level normalizes over
    the batch: training needs at least 2 images.
    `as_published` aligns the corners when it upsamples, in the pyramid and at the end, as EMKD does, so that published
    weights score as they did; the default does not.
    """

    taps: ClassVar[dict[str, str]] = {**ENCODER_TAPS, "decoder3": "pyramid"}

    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 2,
        depth: int = 50,
        output_stride: int = 8,
        deep_stem: bool = True,
        dropout: float = 0.1,
        as_published: bool = False,
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        if pretrained is not None and deep_stem:
            raise ValueError(
                "pretrained: torchvision has no weights for PSPNet's three-layer stem; set deep_stem false"
            )
        self.as_published = as_published
        self.encoder = ResNetEncoder(depth, in_channels, output_stride, deep_stem)
        channels = self.encoder.channels[-1]
        self.pyramid = PyramidPooling(channels, channels // 4, as_published)
        self.head = nn.Sequential(nn.Dropout2d(dropout), nn.Conv2d(channels // 4, num_classes, 1))
        initialize(self)
        if pretrained is not None:
            load_pretrained(self.encoder, pretrained, "conv1.weight")

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(B, in_channels, H, W) -> logits (B, num_classes, H, W)."""
        logits = self.head(self.pyramid(self.encoder(image)[-1]))
        return F.interpolate(logits, size=image.shape[-2:], mode="bilinear", align_corners=self.as_published)
