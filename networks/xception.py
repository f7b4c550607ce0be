"""Aligned Xception-65 at output stride 8, the encoder of DeepLabv3+."""

import torch
from torch import nn

from .blocks import conv_norm


def _separable(in_channels: int, out_channels: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """Depthwise 3x3 and pointwise 1x1 convolution, each normalized."""
    return nn.Sequential(
        *conv_norm(in_channels, in_channels, 3, stride, dilation=dilation, groups=in_channels, activation=None),
        *conv_norm(in_channels, out_channels, 1, activation=None),
    )


class XceptionBlock(nn.Module):
    """Three separable convolutions `channels[0] -> .. -> channels[3]`, the last strided, and a shortcut.

    The shortcut takes the block's input as it came; `rectified_shortcut` gives it the input after the first ReLU, as
    in EMKD's zoo, where that ReLU is in place.
    """

    def __init__(
        self,
        channels: tuple[int, int, int, int],
        stride: int = 1,
        dilation: int = 1,
        first_relu: bool = True,
        rectified_shortcut: bool = False,
    ) -> None:
        super().__init__()
        self.rectified_shortcut = rectified_shortcut
        self.branch = nn.Sequential(
            nn.ReLU() if first_relu else nn.Identity(),
            _separable(channels[0], channels[1], 1, dilation),
            nn.ReLU(inplace=True),
            _separable(channels[1], channels[2], 1, dilation),
            nn.ReLU(inplace=True),
            _separable(channels[2], channels[3], stride, dilation),
        )
        self.shortcut = nn.Sequential()
        if stride != 1 or channels[0] != channels[3]:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels[0], channels[3], 1, stride, bias=False), nn.BatchNorm2d(channels[3])
            )

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        kept = self.branch[0](feature) if self.rectified_shortcut else feature
        return self.branch(feature) + self.shortcut(kept)


class XceptionEncoder(nn.Module):
    """Aligned Xception-65 (Chollet, CVPR 2017; Chen et al., ECCV 2018), strides 2, 4, 8 and then dilation.

    `as_published`: the blocks of EMKD's zoo, see DeepLabV3Plus.
    """

    def __init__(self, in_channels: int = 1, as_published: bool = False) -> None:
        super().__init__()
        self.stem = conv_norm(in_channels, 32, stride=2)
        self.quarter = nn.Sequential(
            *conv_norm(32, 64),
            XceptionBlock((64, 128, 128, 128), stride=2, first_relu=False),
            nn.ReLU(inplace=True),
        )
        self.entry = nn.Sequential(
            XceptionBlock((128, 256, 256, 256), stride=2, first_relu=False),
            XceptionBlock((256, 728, 728, 728), rectified_shortcut=as_published),
        )
        self.middle = nn.Sequential(
            *(XceptionBlock((728, 728, 728, 728), dilation=2, rectified_shortcut=as_published) for _ in range(16))
        )
        last = XceptionBlock((728, 728, 1024, 1024), dilation=2, rectified_shortcut=as_published)
        if as_published:
            last.branch[3][3] = nn.Identity()
        self.exit = nn.Sequential(
            last,
            nn.ReLU(),
            _separable(1024, 1536, dilation=4),
            nn.ReLU(inplace=True),
            _separable(1536, 1536, dilation=4),
            nn.ReLU(inplace=True),
            _separable(1536, 2048, dilation=4),
            nn.ReLU(inplace=True),
        )

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Five features: 32 channels at 1/2, 128 at 1/4, 728, 728 and 2048 at 1/8."""
        features = [self.stem(image)]
        for stage in (self.quarter, self.entry, self.middle, self.exit):
            features.append(stage(features[-1]))
        return features
