"""ERFNet: a student of EMKD's zoo."""

from typing import ClassVar

import torch
from torch import nn

from .blocks import initialize


class DownBlock(nn.Module):
    """Halve the size: a strided convolution beside a max pool, `out_channels` together."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(in_channels, out_channels - in_channels, 3, 2, 1)
        self.pool = nn.MaxPool2d(2)
        self.finish = nn.Sequential(nn.BatchNorm2d(out_channels, eps=1e-3), nn.ReLU(inplace=True))

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        return self.finish(torch.cat([self.convolution(feature), self.pool(feature)], dim=1))


class FactorizedResidual(nn.Module):
    """Non-bottleneck-1D block: two 3x3 convolutions as 3x1 and 1x3, the second pair dilated, and a shortcut."""

    def __init__(self, channels: int, dropout: float = 0.0, dilation: int = 1) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(channels, channels, (3, 1), padding=(1, 0)),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, (1, 3), padding=(0, 1)),
            nn.BatchNorm2d(channels, eps=1e-3),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, (3, 1), padding=(dilation, 0), dilation=(dilation, 1)),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, (1, 3), padding=(0, dilation), dilation=(1, dilation)),
            nn.BatchNorm2d(channels, eps=1e-3),
            nn.Dropout2d(dropout),
        )
        self.activation = nn.ReLU(inplace=True)

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        return self.activation(feature + self.branch(feature))


def _up_block(in_channels: int, out_channels: int) -> nn.Sequential:
    """Double the size by a transposed convolution."""
    return nn.Sequential(
        nn.ConvTranspose2d(in_channels, out_channels, 3, 2, 1, output_padding=1),
        nn.BatchNorm2d(out_channels, eps=1e-3),
        nn.ReLU(inplace=True),
    )


class ERFNet(nn.Module):
    """ERFNet (Romera et al., IEEE T-ITS 2018). Dropout as in the paper: 0.03 at 1/4, 0.3 at 1/8, none in the decoder.

    `encoder3`, `encoder4` and `bottleneck` are all at 1/8: after the first round of dilations 2, 4, 8, 16, half-way
    through the second, and at its end. EMKD's `erfnet` gives no features out and crashes its callers.
    Raises ValueError for more than 15 input channels.
    """

    taps: ClassVar[dict[str, str]] = {
        "encoder1": "initial",
        "encoder2": "stage1.5",
        "encoder3": "stage2.4",
        "encoder4": "stage2.6",
        "bottleneck": "stage2.8",
        "decoder2": "stage3",
        "decoder1": "stage4",
    }

    def __init__(
        self, in_channels: int = 1, num_classes: int = 2, early_dropout: float = 0.03, dropout: float = 0.3
    ) -> None:
        super().__init__()
        if not 1 <= in_channels <= 15:
            raise ValueError(f"in_channels must be 1 to 15 (ERFNet's first block has 16 channels), not {in_channels}")
        self.initial = DownBlock(in_channels, 16)
        self.stage1 = nn.Sequential(DownBlock(16, 64), *(FactorizedResidual(64, early_dropout) for _ in range(5)))
        dilations = (2, 4, 8, 16, 2, 4, 8, 16)
        self.stage2 = nn.Sequential(
            DownBlock(64, 128), *(FactorizedResidual(128, dropout, dilation) for dilation in dilations)
        )
        self.stage3 = nn.Sequential(_up_block(128, 64), FactorizedResidual(64), FactorizedResidual(64))
        self.stage4 = nn.Sequential(_up_block(64, 16), FactorizedResidual(16), FactorizedResidual(16))
        self.head = nn.ConvTranspose2d(16, num_classes, 2, 2)
        initialize(self)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(B, in_channels, H, W) -> logits (B, num_classes, H, W)."""
        feature = self.stage2(self.stage1(self.initial(image)))
        return self.head(self.stage4(self.stage3(feature)))
