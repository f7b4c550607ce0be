"""RA-UNet: the teacher of EMKD."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from .blocks import initialize
from .pretrained import load_pretrained
from .resnet import ENCODER_TAPS, ResNetEncoder


def _conv_norm_relu_1x1(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1), nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


class AugmentedAttention(nn.Module):
    """Augmented attention module: add the skip to the decoder feature, channels weighted by both their global means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.high = _conv_norm_relu_1x1(channels, channels)
        self.low = _conv_norm_relu_1x1(channels, channels)
        self.weight = nn.Conv2d(channels, channels, 1)
        self.skip = _conv_norm_relu_1x1(channels, channels)

    def forward(self, high: torch.Tensor, low: torch.Tensor) -> torch.Tensor:
        pooled = self.high(F.adaptive_avg_pool2d(high, 1)) + self.low(F.adaptive_avg_pool2d(low, 1))
        return high + self.skip(low) * self.weight(pooled).softmax(dim=1)


class DecoderBlock(nn.Sequential):
    """LinkNet decoder block: 1x1 to a quarter of the channels, transposed 4x4 that doubles the size, 1x1."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        width = in_channels // 4
        super().__init__(
            _conv_norm_relu_1x1(in_channels, width),
            nn.ConvTranspose2d(width, width, 4, stride=2, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            _conv_norm_relu_1x1(width, out_channels),
        )


class TransposedConvolution(nn.ConvTranspose2d):
    """A transposed convolution that adds its bias apart: oneDNN's, at odd sizes, is 15 times slower with it in bf16."""

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        result = F.conv_transpose2d(feature, self.weight, stride=self.stride)
        return result + self.bias.to(result.dtype)[:, None, None]


class RAUNet(nn.Module):
    """RA-UNet: ResNet-34 encoder, LinkNet decoder, augmented attention on the skips (Ni et al., 2019; EMKD's layout).

    It returns logits; the published one returns log-softmax, which gives every softmax-based loss the same value.
    The attention normalizes 1x1 maps over the batch: training needs batches of at least 2 images.
    """

    taps: ClassVar[dict[str, str]] = {
        **ENCODER_TAPS,
        "decoder4": "attention4",
        "decoder3": "attention3",
        "decoder2": "attention2",
        "decoder1": "decoder1",
    }

    def __init__(self, in_channels: int = 1, num_classes: int = 2, pretrained: str | None = None) -> None:
        super().__init__()
        self.encoder = ResNetEncoder(34, in_channels)
        self.decoder4 = DecoderBlock(512, 256)
        self.decoder3 = DecoderBlock(256, 128)
        self.decoder2 = DecoderBlock(128, 64)
        self.decoder1 = DecoderBlock(64, 64)
        self.attention4 = AugmentedAttention(256)
        self.attention3 = AugmentedAttention(128)
        self.attention2 = AugmentedAttention(64)
        self.head = nn.Sequential(
            TransposedConvolution(64, 32, 3, stride=2),  # n -> 2n + 1
            nn.ReLU(inplace=True),
            nn.Conv2d(32, 32, 3),  # -> 2n - 1
            nn.ReLU(inplace=True),
            nn.Conv2d(32, num_classes, 2, padding=1),  # -> 2n
        )
        initialize(self)
        if pretrained is not None:
            load_pretrained(self.encoder, pretrained, "conv1.weight")

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(B, in_channels, H, W) -> logits (B, num_classes, H, W)."""
        _, encoder2, encoder3, encoder4, feature = self.encoder(image)
        feature = self.attention4(self.decoder4(feature), encoder4)
        feature = self.attention3(self.decoder3(feature), encoder3)
        feature = self.attention2(self.decoder2(feature), encoder2)
        return self.head(self.decoder1(feature))
