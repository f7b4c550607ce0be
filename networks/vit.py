"""ViT-S/16 with timm's parameter names."""

from typing import ClassVar

import torch
from torch import nn

from .classifier_blocks import linear_classifier, refuse_other_size
from .pretrained import load_pretrained
from .transformer_blocks import FeedForward, SelfAttention, initialize_transformer

DEPTH, DIM, HEADS = 12, 384, 6


class TransformerBlock(nn.Module):
    """Attention and feed-forward layer, each on normalized tokens and added to them."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = SelfAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = FeedForward(dim, 4 * dim)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        tokens = tokens + self.attn(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class ViTSmall(nn.Module):
    """Vision Transformer, small (Dosovitskiy et al., ICLR 2021; size S: Touvron et al., ICML 2021): 12 blocks, 6 heads.

    `image_size` fixes the number of tokens, N = (image_size / patch_size)^2; raises ValueError unless it is a multiple
    of `patch_size`, and for an image of another size. Patches of 4 suit images of 32 to 64 pixels.

    Taps: `block1..12`, tokens (B, 1 + N, 384) with the class token first, of which `encoder1..4` are blocks 3, 6, 9 and
    12; `tokens`, the same after the last normalization; `embedding` (B, 384), its class token.
    `pretrained`: the state dict of timm's vit_small_patch16_224 (torch.save), its head ignored.
    """

    taps: ClassVar[dict[str, str]] = {
        **{f"block{index + 1}": f"blocks.{index}" for index in range(DEPTH)},
        **{f"encoder{level}": f"blocks.{3 * level - 1}" for level in range(1, 5)},
        "tokens": "norm",
        "embedding": "class_token",
    }

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 2,
        image_size: int = 224,
        patch_size: int = 16,
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        if image_size < patch_size or image_size % patch_size:
            raise ValueError(f"image_size {image_size} is not a multiple of patch_size {patch_size}: set one of them")
        self.image_size = image_size
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(in_channels, DIM, patch_size, patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, DIM))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + (image_size // patch_size) ** 2, DIM))
        self.blocks = nn.Sequential(*(TransformerBlock(DIM, HEADS) for _ in range(DEPTH)))
        self.norm = nn.LayerNorm(DIM, eps=1e-6)
        self.class_token = nn.Identity()
        initialize_transformer(self)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.normal_(self.cls_token, std=1e-6)
        if pretrained is not None:
            load_pretrained(self, pretrained, "patch_embed.proj.weight", ignored=("head.",))
        self.classifier = linear_classifier(DIM, num_classes)  # after loading: the file's head is for other classes

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(B, in_channels, image_size, image_size) -> logits (B, num_classes)."""
        refuse_other_size(self, image, self.image_size)
        patches = self.patch_embed.proj(image).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(image.shape[0], -1, -1), patches], dim=1) + self.pos_embed
        tokens = self.norm(self.blocks(tokens))
        return self.classifier(self.class_token(tokens[:, 0]))
