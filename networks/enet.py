"""ENet: the smallest published student of EMKD."""

from typing import ClassVar

import torch
from torch import nn

from .blocks import initialize, repeated, repeats


class InitialBlock(nn.Module):
    """Halve the image: a strided convolution beside a max pool of the image itself, 16 channels together."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(in_channels, 16 - in_channels, 3, 2, 1, bias=False)
        self.pool = nn.MaxPool2d(2)
        self.finish = nn.Sequential(nn.BatchNorm2d(16), nn.PReLU())

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.finish(torch.cat([self.convolution(image), self.pool(image)], dim=1))


def _branch(in_channels: int, width: int, out_channels: int, middle: list[nn.Module], dropout: float) -> nn.Sequential:
    """1x1 in, `middle`, 1x1 out, each normalized; spatial dropout at the end."""
    return nn.Sequential(
        nn.Conv2d(in_channels, width, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.PReLU(),
        *middle,
        nn.BatchNorm2d(width),
        nn.PReLU(),
        nn.Conv2d(width, out_channels, 1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.Dropout2d(dropout),
    )


class Bottleneck(nn.Module):
    """Residual bottleneck of a quarter of the width; its middle is regular, dilated, or asymmetric (5x1, 1x5)."""

    def __init__(self, channels: int, dropout: float, dilation: int = 1, asymmetric: bool = False) -> None:
        super().__init__()
        width = channels // 4
        if asymmetric:
            middle = [
                nn.Conv2d(width, width, (5, 1), padding=(2, 0), bias=False),
                nn.Conv2d(width, width, (1, 5), padding=(0, 2), bias=False),
            ]
        else:
            middle = [nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation, bias=False)]
        self.branch = _branch(channels, width, channels, middle, dropout)
        self.activation = nn.PReLU()

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        return self.activation(feature + self.branch(feature))


class DownBottleneck(nn.Module):
    """Halve the size; also give the places of the maxima, which the decoder puts its features back to."""

    def __init__(self, in_channels: int, width: int, out_channels: int, dropout: float) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(2, return_indices=True)
        self.shortcut = nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels))
        middle = [nn.Conv2d(width, width, 2, 2, bias=False)]
        self.branch = _branch(in_channels, width, out_channels, middle, dropout)
        self.activation = nn.PReLU()

    def forward(self, feature: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        pooled, indices = self.pool(feature)
        return self.activation(self.shortcut(pooled) + self.branch(feature)), indices


class UpBottleneck(nn.Module):
    """Double the size: max unpooling beside a transposed convolution."""

    def __init__(self, in_channels: int, width: int, out_channels: int, dropout: float) -> None:
        super().__init__()
        self.shortcut = nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels))
        self.unpool = nn.MaxUnpool2d(2)
        middle = [nn.ConvTranspose2d(width, width, 2, 2, bias=False)]
        self.branch = _branch(in_channels, width, out_channels, middle, dropout)
        self.activation = nn.PReLU()

    def forward(self, feature: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        return self.activation(self.unpool(self.shortcut(feature), indices) + self.branch(feature))


class ENet(nn.Module):
    """ENet (Paszke et al., 2016) in EMKD's layout: learned 1x1 shortcuts where the size changes, one PReLU slope each.

    EMKD's forward builds `bottleneck3_5` and forgets to call it (0.354 M parameters, 1.02 GMAC at 384x384); here it
    is the fifth block of stage 3 and runs, as in the paper. The paper's dropout: 0.01 in stage 1, 0.1 after it.
    `as_published` computes what EMKD does, so that published weights score as they did: without that block, and with a
    one-channel image repeated three times, which is not the same as a one-channel first block.
    EMKD distils the end of stage 3: that is `bottleneck` here, 128 channels at 1/8, as are `encoder3` (end of
    stage 2) and `encoder4` (half of stage 3). Raises ValueError for more than 15 input channels.
    """

    taps: ClassVar[dict[str, str]] = {
        "encoder1": "initial",
        "encoder2": "stage1",
        "encoder3": "stage2",
        "encoder4": "stage3.3",
        "bottleneck": "stage3.7",
        "decoder2": "stage4",
        "decoder1": "stage5",
    }

    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 2,
        early_dropout: float = 0.01,
        dropout: float = 0.1,
        as_published: bool = False,
    ) -> None:
        super().__init__()
        if not 1 <= in_channels <= 15:
            raise ValueError(f"in_channels must be 1 to 15 (ENet's first block has 16 channels), not {in_channels}")
        self.repeats = repeats(in_channels, as_published)
        self.initial = InitialBlock(in_channels * self.repeats)
        self.down1 = DownBottleneck(16, 16, 64, early_dropout)
        self.stage1 = nn.Sequential(*(Bottleneck(64, early_dropout) for _ in range(4)))
        self.down2 = DownBottleneck(64, 32, 128, dropout)
        self.stage2 = _dilated_stage(dropout)
        self.stage3 = _dilated_stage(dropout)
        if as_published:
            self.stage3[4] = nn.Identity()
        self.up4 = UpBottleneck(128, 16, 64, dropout)
        self.stage4 = nn.Sequential(Bottleneck(64, dropout), Bottleneck(64, dropout))
        self.up5 = UpBottleneck(64, 4, 16, dropout)
        self.stage5 = nn.Sequential(Bottleneck(16, dropout))
        self.head = nn.ConvTranspose2d(16, num_classes, 2, 2, bias=False)
        initialize(self)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(B, in_channels, H, W) -> logits (B, num_classes, H, W)."""
        feature, indices1 = self.down1(self.initial(repeated(image, self.repeats)))
        feature, indices2 = self.down2(self.stage1(feature))
        feature = self.stage3(self.stage2(feature))
        feature = self.stage4(self.up4(feature, indices2))
        feature = self.stage5(self.up5(feature, indices1))
        return self.head(feature)


def _dilated_stage(dropout: float) -> nn.Sequential:
    """Eight blocks of 128 channels: regular, dilated 2, asymmetric, 4, regular, 8, asymmetric, 16."""
    return nn.Sequential(
        Bottleneck(128, dropout),
        Bottleneck(128, dropout, dilation=2),
        Bottleneck(128, dropout, asymmetric=True),
        Bottleneck(128, dropout, dilation=4),
        Bottleneck(128, dropout),
        Bottleneck(128, dropout, dilation=8),
        Bottleneck(128, dropout, asymmetric=True),
        Bottleneck(128, dropout, dilation=16),
    )
