"""Parts of HDKD: the stem, the MBCSA block with its CBAM, the DFLT module."""

from collections.abc import Sequence

import torch
from torch import nn

from .transformer_blocks import FeedForward, SelfAttention


class CBAM(nn.Module):
    """Channel attention, then spatial attention (Woo et al., ECCV 2018), plus the input, which the original has not."""

    def __init__(self, channels: int, ratio: int = 16) -> None:
        super().__init__()
        squeezed = max(1, channels // ratio)
        self.channel = nn.Sequential(
            nn.Conv2d(channels, squeezed, 1, bias=False),
            nn.GELU(),
            nn.Conv2d(squeezed, channels, 1, bias=False),
        )
        self.spatial = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        mean, maximum = feature.mean(dim=(2, 3), keepdim=True), feature.amax(dim=(2, 3), keepdim=True)
        attended = feature * (self.channel(mean) + self.channel(maximum)).sigmoid()
        summary = torch.cat([attended.mean(dim=1, keepdim=True), attended.amax(dim=1, keepdim=True)], dim=1)
        return attended * self.spatial(summary).sigmoid() + feature


class MBCSA(nn.Module):
    """Normalization, 1x1 expansion (where the stride is), depthwise 3x3, CBAM, linear 1x1; with a shortcut.

    A `stride` of 2 makes the shortcut a 3x3 max-pool and a 1x1 convolution. `expansion` multiplies the input channels.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, expansion: int = 4) -> None:
        super().__init__()
        width = in_channels * expansion
        self.branch = nn.Sequential(
            nn.BatchNorm2d(in_channels),
            nn.Conv2d(in_channels, width, 1, stride, bias=False),
            nn.BatchNorm2d(width),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False),
            nn.BatchNorm2d(width),
            nn.GELU(),
            CBAM(width),
            nn.Conv2d(width, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.shortcut = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.MaxPool2d(3, stride, 1), nn.Conv2d(in_channels, out_channels, 1, bias=False)
            )

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        return self.shortcut(feature) + self.branch(feature)


def stem_stage(in_channels: int, channels: int, blocks: int) -> nn.Sequential:
    """`blocks` 3x3 convolutions, each with batch normalization and GELU; the first halves the size."""
    layers = []
    for index in range(blocks):
        layers += [
            nn.Conv2d(channels if index else in_channels, channels, 3, 1 if index else 2, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.GELU(),
        ]
    return nn.Sequential(*layers)


def mbcsa_stage(in_channels: int, channels: int, blocks: int) -> nn.Sequential:
    """`blocks` MBCSA; the first halves the size."""
    return nn.Sequential(
        *(MBCSA(channels if index else in_channels, channels, 1 if index else 2) for index in range(blocks))
    )


def convolution_stages(in_channels: int, channels: Sequence[int], blocks: Sequence[int]) -> list[nn.Sequential]:
    """HDKD's three convolutional stages: (B, in_channels, H, W) to channels[0..2] at 1/2, 1/4, 1/8.

    Raises ValueError unless there are three positive channels and block counts.
    """
    for name, values in (("channels", channels), ("blocks", blocks)):
        if len(values) != 3 or min(values) < 1:
            raise ValueError(f"{name} must be three positive integers, one per convolutional stage, not {values!r}")
    return [
        stem_stage(in_channels, channels[0], blocks[0]),
        mbcsa_stage(channels[0], channels[1], blocks[1]),
        mbcsa_stage(channels[1], channels[2], blocks[2]),
    ]


class PatchEmbedding(nn.Module):
    """Map (B, C, 2h, 2w) -> tokens (B, h*w, dim): each 2x2 patch normalized, projected, normalized."""

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.project = nn.Sequential(nn.LayerNorm(4 * channels), nn.Linear(4 * channels, dim), nn.LayerNorm(dim))

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        patches = feature.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))  # B, C, h, 2, w, 2
        return self.project(patches.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2))


class TransformerBlock(nn.Module):
    """Attention on normalized tokens, then a feed-forward layer; the published code gives the latter no norm."""

    def __init__(self, dim: int, heads: int, expansion: int = 4) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.attention = SelfAttention(dim, heads, bias=False)
        self.feed_forward = FeedForward(dim, expansion * dim)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        tokens = tokens + self.attention(self.norm(tokens))
        return tokens + self.feed_forward(tokens)


class DFLT(nn.Module):
    """Tokens of a map, preceded by `extra` learned ones, through a transformer: (B, C, h, w) -> (B, extra + N, dim).

    `positions` is N, the number of 2x2 patches. Learned tokens and positional embeddings start at N(0, 1).
    """

    def __init__(self, channels: int, dim: int, depth: int, heads: int, positions: int, extra: int) -> None:
        super().__init__()
        self.embed = PatchEmbedding(channels, dim)
        self.tokens = nn.Parameter(torch.randn(1, extra, dim))
        self.position = nn.Parameter(torch.randn(1, extra + positions, dim))
        self.blocks = nn.Sequential(*(TransformerBlock(dim, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        patches = self.embed(feature)
        tokens = torch.cat([self.tokens.expand(patches.shape[0], -1, -1), patches], dim=1) + self.position
        return self.norm(self.blocks(tokens))
