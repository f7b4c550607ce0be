"""SwinV2 with timm's parameter names."""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from .classifier_blocks import drop_branch, global_pool, linear_classifier, refuse_other_size
from .pretrained import load_pretrained
from .transformer_blocks import FeedForward, initialize_transformer


class WindowAttention(nn.Module):
    """Cosine attention with a log-spaced continuous position bias (the paper's equations 2 to 4).

    Tokens (B * W, N, C) of W windows of N = window * window; `mask` (W, N, N) is added to the similarities.
    Queries and values have a bias, keys have none.
    """

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.logit_scale = nn.Parameter(torch.full((heads, 1, 1), math.log(10)))
        self.cpb_mlp = nn.Sequential(nn.Linear(2, 512), nn.ReLU(inplace=True), nn.Linear(512, heads, bias=False))
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim))
        self.v_bias = nn.Parameter(torch.zeros(dim))
        self.proj = nn.Linear(dim, dim)
        # Offsets from -(window - 1) to window - 1, scaled to -8..8, then logarithmic: -log2(9)/3 to log2(9)/3.
        offset = torch.arange(1 - window, window, dtype=torch.float32) * 8 / max(window - 1, 1)
        offset = offset.sign() * torch.log2(offset.abs() + 1) / 3
        self.register_buffer("offsets", torch.cartesian_prod(offset, offset), persistent=False)
        # Which of those (2 * window - 1)^2 offsets lies between tokens i and j: (N, N).
        position = torch.arange(window)
        row, column = position.repeat_interleave(window), position.repeat(window)
        down, right = row[:, None] - row + window - 1, column[:, None] - column + window - 1
        self.register_buffer("pairs", down * (2 * window - 1) + right, persistent=False)

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        projected = F.linear(tokens, self.qkv.weight, bias)
        query, key, value = projected.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query = F.normalize(query, dim=-1) * self.logit_scale.clamp(max=math.log(100)).exp()
        added = 16 * self.cpb_mlp(self.offsets).sigmoid()[self.pairs].permute(2, 0, 1)  # heads, N, N
        if mask is not None:
            added = (added + mask[:, None]).repeat(tokens.shape[0] // mask.shape[0], 1, 1, 1)
        mixed = F.scaled_dot_product_attention(query, F.normalize(key, dim=-1), value, added, scale=1.0)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class SwinBlock(nn.Module):
    """Attention in windows, shifted by `shift`, and a feed-forward layer; each is normalized, then added.

    Maps (B, side, side, C). The norms start at zero, so that a block starts as the identity.
    """

    def __init__(self, dim: int, heads: int, side: int, window: int, shift: int, drop_probability: float) -> None:
        super().__init__()
        self.window, self.shift, self.drop_probability = window, shift, drop_probability
        self.attn = WindowAttention(dim, heads, window)
        self.norm1 = nn.LayerNorm(dim)
        self.mlp = FeedForward(dim, 4 * dim)
        self.norm2 = nn.LayerNorm(dim)
        self.register_buffer("mask", _shift_mask(side, window, shift) if shift else None, persistent=False)

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        attended = drop_branch(self.norm1(self._attend(feature)), self.drop_probability, self.training)
        feature = feature + attended
        return feature + drop_branch(self.norm2(self.mlp(feature)), self.drop_probability, self.training)

    def _attend(self, feature: torch.Tensor) -> torch.Tensor:
        if self.shift:
            feature = feature.roll((-self.shift, -self.shift), dims=(1, 2))
        batch, side = feature.shape[:2]
        windows = self.attn(_to_windows(feature, self.window), self.mask)
        count = side // self.window
        feature = windows.unflatten(0, (batch, count, count)).unflatten(3, (self.window, self.window))
        feature = feature.permute(0, 1, 3, 2, 4, 5).flatten(3, 4).flatten(1, 2)
        return feature.roll((self.shift, self.shift), dims=(1, 2)) if self.shift else feature


def _to_windows(feature: torch.Tensor, window: int) -> torch.Tensor:
    """(B, side, side, C) -> (B * windows, window * window, C)."""
    feature = feature.unflatten(2, (-1, window)).unflatten(1, (-1, window))  # B, rows, window, columns, window, C
    return feature.permute(0, 1, 3, 2, 4, 5).flatten(3, 4).flatten(0, 2)


def _shift_mask(side: int, window: int, shift: int) -> torch.Tensor:
    """(windows, N, N): 0 between tokens of one region of the rolled map, -inf between those the roll put together."""
    position = torch.arange(side)
    strip = (position >= side - window).long() + (position >= side - shift).long()
    region = _to_windows((3 * strip[:, None] + strip)[None, :, :, None], window)
    return torch.zeros(region.shape[0], window**2, window**2).masked_fill_(region != region.transpose(1, 2), -math.inf)


class PatchMerging(nn.Module):
    """2x2 neighbors side by side, projected to twice the channels, normalized: (B, 2h, 2w, C) -> (B, h, w, 2C)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)
        self.norm = nn.LayerNorm(2 * dim)

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        patches = feature.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))  # B, h, 2, w, 2, C
        return self.norm(self.reduction(patches.permute(0, 1, 3, 4, 2, 5).flatten(3)))


class SwinStage(nn.Module):
    """Merging (but in the first stage) and blocks; maps (B, C, h, w) in and out."""

    def __init__(self, downsample: nn.Module, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.downsample = downsample
        self.blocks = nn.Sequential(*blocks)

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        return self.blocks(self.downsample(feature.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)


class SwinV2(nn.Module):
    """Swin Transformer V2 (Liu et al., CVPR 2022), small with windows of 8 for images of 256: 49.7 M at 1000 classes.

    A map no larger than the window is one window, unshifted. `stochastic_depth` is the last block's drop probability,
    linear from 0 at the first. `depths` and `heads`, one per stage, and `dim` make other sizes (tiny: 2, 2, 6, 2).

    Taps: `encoder1..4`, the stages at 1/4, 1/8, 1/16, 1/32 with dim, 2, 4 and 8 times dim channels; `embedding`
    (B, 8 * dim) after the last normalization, pooled.
    `pretrained`: the state dict of timm's swinv2_small_window8_256 (torch.save), its head ignored.
    Raises ValueError for an `image_size` whose maps the windows do not tile, and for an image of another size.
    """

    taps: ClassVar[dict[str, str]] = {
        "encoder1": "layers.0",
        "encoder2": "layers.1",
        "encoder3": "layers.2",
        "encoder4": "layers.3",
        "embedding": "pool",
    }

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 2,
        image_size: int = 256,
        window_size: int = 8,
        dim: int = 96,
        depths: Sequence[int] = (2, 2, 18, 2),
        heads: Sequence[int] = (3, 6, 12, 24),
        stochastic_depth: float = 0.1,
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        if len(depths) != 4 or len(heads) != 4:
            raise ValueError(f"depths and heads need four numbers each, one per stage, not {depths!r} and {heads!r}")
        sides = [image_size // (4 << stage) for stage in range(4)]
        tiled = all(side <= window_size or side % window_size == 0 for side in sides)
        if image_size < 32 or image_size % 32 or not tiled:
            raise ValueError(
                f"image_size {image_size} gives maps that windows of {window_size} do not tile; a multiple of "
                f"{32 * window_size} does (224 with window_size 7)"
            )
        self.image_size = image_size
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(in_channels, dim, 4, 4)
        self.patch_embed.norm = nn.LayerNorm(dim)
        layers = []
        drops = iter(torch.linspace(0, stochastic_depth, sum(depths), device="cpu").tolist())
        for stage, (side, depth, stage_heads) in enumerate(zip(sides, depths, heads, strict=True)):
            window = min(side, window_size)
            shift = window_size // 2 if side > window_size else 0
            blocks = [
                SwinBlock(dim << stage, stage_heads, side, window, shift if index % 2 else 0, next(drops))
                for index in range(depth)
            ]
            layers.append(SwinStage(PatchMerging(dim << (stage - 1)) if stage else nn.Identity(), blocks))
        self.layers = nn.Sequential(*layers)
        self.norm = nn.LayerNorm(8 * dim)
        self.pool = global_pool()
        initialize_transformer(self)
        for module in self.modules():
            if isinstance(module, SwinBlock):
                nn.init.zeros_(module.norm1.weight)
                nn.init.zeros_(module.norm2.weight)
        if pretrained is not None:
            load_pretrained(self, pretrained, "patch_embed.proj.weight", ignored=("head.",))
        self.classifier = linear_classifier(8 * dim, num_classes)  # after loading: the file's head is for other classes

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(B, in_channels, image_size, image_size) -> logits (B, num_classes)."""
        refuse_other_size(self, image, self.image_size)
        feature = self.patch_embed.norm(self.patch_embed.proj(image).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        feature = self.norm(self.layers(feature).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.classifier(self.pool(feature))
