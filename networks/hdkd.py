"""HDKD's networks: a convolutional teacher, a hybrid student, and that student with a distillation head."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import nn

from .classifier_blocks import global_pool, refuse_other_size, refuse_small
from .hdkd_blocks import DFLT, convolution_stages

STAGE_TAPS = {
    "stage1": "stage1",
    "stage2": "stage2",
    "stage3": "stage3",
    "encoder1": "stage1",
    "encoder2": "stage2",
    "encoder3": "stage3",
}


class HDKDTeacher(nn.Module):
    """HDKD's teacher, a CNN of MBCSA blocks (arXiv 2407.07516): 3.949 M parameters, 5.70 GMAC at 224x224, 7 classes.

    Two linear layers follow the pooling, without an activation between them, as in the published code.
    Taps: `stage1..3`, also called `encoder1..3`, at 1/2, 1/4, 1/8 (64, 96, 192 channels); `pooled` (B, 192);
    `embedding` (B, 128), the last layer's input; `class_logits`. Any image of at least 8x8.
    """

    taps: ClassVar[dict[str, str]] = {
        **STAGE_TAPS,
        "pooled": "pool",
        "embedding": "reduce",
        "class_logits": "classifier",
    }

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 2,
        blocks: Sequence[int] = (6, 6, 9),
        channels: Sequence[int] = (64, 96, 192),
    ) -> None:
        super().__init__()
        self.stage1, self.stage2, self.stage3 = convolution_stages(in_channels, channels, blocks)
        self.pool = global_pool()
        self.reduce = nn.Linear(channels[-1], 128)
        self.classifier = nn.Linear(128, num_classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(B, in_channels, H, W) -> logits (B, num_classes)."""
        refuse_small(self, image, 8)
        feature = self.stage3(self.stage2(self.stage1(image)))
        return self.classifier(self.reduce(self.pool(feature)))


class HDKDStudent(nn.Module):
    """HDKD's student without distillation (arXiv 2407.07516): 3.725 M parameters, 2.02 GMAC at 224x224, 7 classes.

    Three convolutional stages, then a transformer (DFLT) over 2x2 patches with a class token.
    Taps: `stage1..3`, also called `encoder1..3`, at 1/2, 1/4, 1/8 (64, 96, 192 channels: the teacher's shapes);
    `tokens` (B, 1 + N, dim) after the last normalization, N = (image_size / 16)^2, the class token first;
    `embedding` (B, dim), the class token; `class_logits`.
    `image_size` fixes N: a multiple of 16. Raises ValueError for another, and for an image of another size.
    """

    taps: ClassVar[dict[str, str]] = {
        **STAGE_TAPS,
        "tokens": "transformer",
        "embedding": "class_token",
        "class_logits": "class_head",
    }
    learned_tokens = 1  # before those of the patches

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 2,
        image_size: int = 224,
        blocks: Sequence[int] = (2, 2, 3),
        channels: Sequence[int] = (64, 96, 192),
        dim: int = 256,
        depth: int = 3,
        heads: int = 8,
    ) -> None:
        super().__init__()
        self.image_size = image_size
        self.stage1, self.stage2, self.stage3 = convolution_stages(in_channels, channels, blocks)
        self.transformer = _transformer(image_size, channels[-1], dim, depth, heads, self.learned_tokens)
        self.class_token = nn.Identity()
        self.class_head = nn.Linear(dim, num_classes)
        if self.learned_tokens == 2:
            self.distillation_token = nn.Identity()
            self.distillation_head = nn.Linear(dim, num_classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(B, in_channels, image_size, image_size) -> logits (B, num_classes)."""
        return self.class_head(self.class_token(self.tokens(image)[:, 0]))

    def tokens(self, image: torch.Tensor) -> torch.Tensor:
        """(B, in_channels, image_size, image_size) -> learned tokens and those of the patches (B, N', dim)."""
        refuse_other_size(self, image, self.image_size)
        return self.transformer(self.stage3(self.stage2(self.stage1(image))))


class HDKD(HDKDStudent):
    """HDKD's student with a distillation token and head (arXiv 2407.07516): 3.727 M parameters, 2.02 GMAC at 224x224.

    It takes the arguments of HDKDStudent and returns the mean of its two heads, with which it infers. The published
    loss trains them apart: cross entropy on `class_logits`, the teacher's logits on `distillation_logits`; the
    published module returns both in training.
    Taps: as HDKDStudent, with two learned tokens first in `tokens` (B, 2 + N, dim): class, then distillation;
    `embedding` (B, dim) and `distillation_embedding` are those two after the last normalization.
    """

    taps: ClassVar[dict[str, str]] = {
        **HDKDStudent.taps,
        "distillation_embedding": "distillation_token",
        "distillation_logits": "distillation_head",
    }
    learned_tokens = 2

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(B, in_channels, image_size, image_size) -> logits (B, num_classes)."""
        tokens = self.tokens(image)
        class_logits = self.class_head(self.class_token(tokens[:, 0]))
        distillation_logits = self.distillation_head(self.distillation_token(tokens[:, 1]))
        return (class_logits + distillation_logits) / 2


def _transformer(image_size: int, channels: int, dim: int, depth: int, heads: int, extra: int) -> DFLT:
    if image_size < 16 or image_size % 16:
        raise ValueError(
            f"image_size must be a positive multiple of 16 for HDKD's 2x2 patches at 1/8, not {image_size}"
        )
    if dim % heads:
        raise ValueError(f"dim {dim} is not a multiple of heads {heads}")
    return DFLT(channels, dim, depth, heads, (image_size // 16) ** 2, extra)
