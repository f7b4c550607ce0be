"""U-Nets with a ResNet encoder: HLFD's UNet_R18 (student) and UNet_R50 (teacher)."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from .blocks import DECODER_TAPS, UpBlock, initialize
from .pretrained import load_pretrained
from .resnet import ENCODER_TAPS, ResNetEncoder


class UNetR18(nn.Module):
    """ResNet-18 encoder, U-Net decoder to 1/2 resolution, bilinear to the image's (HLFD's `UNet_R18`).

    The first skip is the stem before its pooling; HLFD pools it and resizes it back (same parameters and MACs), and
    aligns the corners wherever it resizes. `as_published` does both, so that published weights score as they did; the
    default does neither.
    """

    taps: ClassVar[dict[str, str]] = {**ENCODER_TAPS, **DECODER_TAPS}

    def __init__(
        self, in_channels: int = 1, num_classes: int = 2, as_published: bool = False, pretrained: str | None = None
    ) -> None:
        super().__init__()
        self.as_published = as_published
        self.encoder = ResNetEncoder(18, in_channels)
        self.decoder4 = UpBlock(512, 256, 256)
        self.decoder3 = UpBlock(256, 128, 128)
        self.decoder2 = UpBlock(128, 64, 64)
        self.decoder1 = UpBlock(64, 64, 32)
        self.head = nn.Conv2d(32, num_classes, 1)
        initialize(self)
        if pretrained is not None:
            load_pretrained(self.encoder, pretrained, "conv1.weight")

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(B, in_channels, H, W) -> logits (B, num_classes, H, W)."""
        logits = self.head(_decoded(self, image))
        return F.interpolate(logits, size=image.shape[-2:], mode="bilinear", align_corners=self.as_published)


class UNetR50(nn.Module):
    """ResNet-50 encoder, U-Net decoder to full resolution whose last skip is the image (HLFD's `UNet_R50`).

    HLFD's key `unet_r50` builds a plain U-Net instead: that is `unet` here. HLFD's first skip is pooled and resized
    back with aligned corners (same parameters and MACs); `as_published` does so too, so that published weights score as
    they did. By default the skip is the stem before its pooling.
    """

    taps: ClassVar[dict[str, str]] = {**ENCODER_TAPS, **DECODER_TAPS}

    def __init__(
        self, in_channels: int = 1, num_classes: int = 2, as_published: bool = False, pretrained: str | None = None
    ) -> None:
        super().__init__()
        self.as_published = as_published
        self.encoder = ResNetEncoder(50, in_channels)
        self.decoder4 = UpBlock(2048, 1024, 1024)
        self.decoder3 = UpBlock(1024, 512, 512)
        self.decoder2 = UpBlock(512, 256, 256)
        self.decoder1 = UpBlock(256, 64, 128)
        self.full_resolution = UpBlock(128, in_channels, 64)
        self.head = nn.Conv2d(64, num_classes, 1)
        initialize(self)
        if pretrained is not None:
            load_pretrained(self.encoder, pretrained, "conv1.weight")

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(B, in_channels, H, W) -> logits (B, num_classes, H, W)."""
        return self.head(self.full_resolution(_decoded(self, image), image))


def _decoded(network: UNetR18 | UNetR50, image: torch.Tensor) -> torch.Tensor:
    """What `decoder1` gives out, at half the image's resolution.

    As published its skip is the stem after its pooling, resized back to its own size.
    """
    encoder1, encoder2, encoder3, encoder4, feature = network.encoder(image)
    if network.as_published:
        pooled = F.max_pool2d(encoder1, 3, 2, 1)
        encoder1 = F.interpolate(pooled, size=encoder1.shape[-2:], mode="bilinear", align_corners=True)
    feature = network.decoder4(feature, encoder4)
    feature = network.decoder3(feature, encoder3)
    feature = network.decoder2(feature, encoder2)
    return network.decoder1(feature, encoder1)
