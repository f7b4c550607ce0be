"""ResNet-18 with an FCN head: the student of EMKD and HLFD."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from .blocks import initialize
from .pretrained import load_pretrained
from .resnet import ENCODER_TAPS, ResNetEncoder


class ResNet18(nn.Module):
    """ResNet-18, 1x1 convolution, bilinear upsampling (FCN-32s; Long et al., CVPR 2015). It has no decoder to tap.

    `output_stride` 16 or 8 dilates the last stages instead of striding: the same parameters, finer logits, more work.
    The published student repeats a one-channel image three times (11.18 M, 5.33 GMAC at 384x384); a one-channel
    stem computes the same with 11.17 M and 5.10 GMAC.
    `as_published` aligns the corners when it upsamples, as the published code does, so that published weights score as
    they did; it stretches the coarse grid unevenly against the image, so by default corners are not aligned.
    """

    taps: ClassVar[dict[str, str]] = ENCODER_TAPS

    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 2,
        output_stride: int = 32,
        as_published: bool = False,
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        self.as_published = as_published
        self.encoder = ResNetEncoder(18, in_channels, output_stride)
        self.head = nn.Conv2d(512, num_classes, 1)
        initialize(self)
        if pretrained is not None:
            load_pretrained(self.encoder, pretrained, "conv1.weight")

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(B, in_channels, H, W) -> logits (B, num_classes, H, W)."""
        logits = self.head(self.encoder(image)[-1])
        return F.interpolate(logits, size=image.shape[-2:], mode="bilinear", align_corners=self.as_published)
