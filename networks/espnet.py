"""ESPNet: the smallest student of EMKD's zoo."""

from typing import ClassVar

import torch
from torch import nn

from .blocks import initialize, repeated, repeats


def _norm_act(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(channels, eps=1e-3), nn.PReLU(channels))


class PyramidBlock(nn.Module):
    """Efficient spatial pyramid: reduce to a fifth, five dilations (1, 2, 4, 8, 16), sum hierarchically, concatenate.

    `stride` 2 reduces by a strided 3x3 convolution instead of 1x1; `residual` adds the input.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, residual: bool = False) -> None:
        super().__init__()
        width = out_channels // 5
        kernel_size = 1 if stride == 1 else 3
        self.residual = residual
        self.reduce = nn.Conv2d(in_channels, width, kernel_size, stride, kernel_size // 2, bias=False)
        self.dilated = nn.ModuleList(
            nn.Conv2d(width, channels, 3, padding=dilation, dilation=dilation, bias=False)
            for dilation, channels in zip((1, 2, 4, 8, 16), (out_channels - 4 * width, *[width] * 4), strict=True)
        )
        self.finish = _norm_act(out_channels)

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        reduced = self.reduce(feature)
        first, *others = (convolution(reduced) for convolution in self.dilated)
        sums = [others[0]]  # sums of neighbouring dilations hide the grid a single one leaves
        for other in others[1:]:
            sums.append(sums[-1] + other)
        merged = torch.cat([first, *sums], dim=1)
        return self.finish(feature + merged if self.residual else merged)


class ESPNet(nn.Module):
    """ESPNet (Mehta et al., ECCV 2018) with 2 and 3 pyramid blocks at 1/4 and 1/8 (EMKD's zoo).

    `encoder3` (first block), `encoder4` (last) and `bottleneck` (256 channels, EMKD's high) are at 1/8. The decoder is
    as thin as published: `decoder2` has 5 channels, `decoder1` has `num_classes`.
    `as_published` repeats a one-channel image three times, as EMKD does (0.62 GMAC at 384x384): its weights, which the
    appended image takes part in, need that. By default the stem has one channel.
    """

    taps: ClassVar[dict[str, str]] = {
        "encoder1": "initial",
        "encoder2": "stage2.1",
        "encoder3": "stage3.0",
        "encoder4": "stage3.2",
        "bottleneck": "join3",
        "decoder2": "decoder2",
        "decoder1": "decoder1",
    }

    def __init__(self, in_channels: int = 1, num_classes: int = 2, as_published: bool = False) -> None:
        super().__init__()
        self.repeats = repeats(in_channels, as_published)
        in_channels *= self.repeats
        self.shrink = nn.AvgPool2d(3, 2, 1)
        self.initial = nn.Sequential(nn.Conv2d(in_channels, 16, 3, 2, 1, bias=False), _norm_act(16))
        self.join1 = _norm_act(16 + in_channels)
        self.down2 = PyramidBlock(16 + in_channels, 64, stride=2)
        self.stage2 = nn.Sequential(*(PyramidBlock(64, 64, residual=True) for _ in range(2)))
        self.join2 = _norm_act(128 + in_channels)
        self.down3 = PyramidBlock(128 + in_channels, 128, stride=2)
        self.stage3 = nn.Sequential(*(PyramidBlock(128, 128, residual=True) for _ in range(3)))
        self.join3 = _norm_act(256)

        self.up3 = nn.Sequential(
            nn.Conv2d(256, num_classes, 1, bias=False),
            nn.BatchNorm2d(num_classes, eps=1e-3),
            nn.ConvTranspose2d(num_classes, num_classes, 2, 2, bias=False),
        )
        self.skip2 = nn.Conv2d(128 + in_channels, num_classes, 1, bias=False)
        self.decoder2 = nn.Sequential(_norm_act(2 * num_classes), PyramidBlock(2 * num_classes, 5))
        self.up2 = nn.Sequential(nn.ConvTranspose2d(5, num_classes, 2, 2, bias=False), _norm_act(num_classes))
        self.decoder1 = nn.Sequential(
            nn.Conv2d(16 + in_channels + num_classes, num_classes, 3, padding=1, bias=False), _norm_act(num_classes)
        )
        self.head = nn.ConvTranspose2d(num_classes, num_classes, 2, 2, bias=False)
        initialize(self)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(B, in_channels, H, W) -> logits (B, num_classes, H, W)."""
        image = repeated(image, self.repeats)
        half = self.shrink(image)
        encoder1 = self.join1(torch.cat([self.initial(image), half], dim=1))
        down2 = self.down2(encoder1)
        encoder2 = self.join2(torch.cat([self.stage2(down2), down2, self.shrink(half)], dim=1))
        down3 = self.down3(encoder2)
        feature = self.up3(self.join3(torch.cat([down3, self.stage3(down3)], dim=1)))
        feature = self.up2(self.decoder2(torch.cat([self.skip2(encoder2), feature], dim=1)))
        return self.head(self.decoder1(torch.cat([feature, encoder1], dim=1)))
