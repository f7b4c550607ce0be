"""U-Net, as a teacher at its usual widths and as a student at small ones."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import nn

from .blocks import DECODER_TAPS, DoubleConv, UpBlock, initialize


class UNet(nn.Module):
    """U-Net (Ronneberger et al., MICCAI 2015) with padding, batch normalization and nearest + 3x3 upsampling.

    `widths`: channels at full, 1/2, 1/4, 1/8 and 1/16 resolution; small ones, e.g. (16, 32, 64, 128, 256), make a
    student. HLFD's and EMKD's `U_Net` (HLFD's key `unet_r50` builds it by mistake). Not MONAI's: its U-Nets upsample
    and normalize otherwise (no figure of the published table fits) and name no blocks to tap.
    Raises ValueError unless there are five positive widths.
    """

    taps: ClassVar[dict[str, str]] = {
        **{f"encoder{level}": f"encoder{level}" for level in (1, 2, 3, 4)},
        "bottleneck": "bottleneck",
        **DECODER_TAPS,
    }

    def __init__(
        self, in_channels: int = 1, num_classes: int = 2, widths: Sequence[int] = (64, 128, 256, 512, 1024)
    ) -> None:
        super().__init__()
        check_widths(widths)
        self.encoder1 = DoubleConv(in_channels, widths[0])
        self.encoder2 = DoubleConv(widths[0], widths[1])
        self.encoder3 = DoubleConv(widths[1], widths[2])
        self.encoder4 = DoubleConv(widths[2], widths[3])
        self.bottleneck = DoubleConv(widths[3], widths[4])
        self.decoder4 = UpBlock(widths[4], widths[3], widths[3])
        self.decoder3 = UpBlock(widths[3], widths[2], widths[2])
        self.decoder2 = UpBlock(widths[2], widths[1], widths[1])
        self.decoder1 = UpBlock(widths[1], widths[0], widths[0])
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Conv2d(widths[0], num_classes, 1)
        initialize(self)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(B, in_channels, H, W) -> logits (B, num_classes, H, W)."""
        encoder1 = self.encoder1(image)
        encoder2 = self.encoder2(self.pool(encoder1))
        encoder3 = self.encoder3(self.pool(encoder2))
        encoder4 = self.encoder4(self.pool(encoder3))
        feature = self.bottleneck(self.pool(encoder4))
        feature = self.decoder4(feature, encoder4)
        feature = self.decoder3(feature, encoder3)
        feature = self.decoder2(feature, encoder2)
        feature = self.decoder1(feature, encoder1)
        return self.head(feature)


def check_widths(widths: Sequence[int]) -> None:
    """Raise ValueError unless `widths` are five positive whole numbers."""
    if len(widths) != 5 or any(not isinstance(width, int) or width < 1 for width in widths):
        raise ValueError(f"widths must be five positive whole numbers, e.g. [16, 32, 64, 128, 256], not {widths!r}")
