"""Cross-entropy of logits against integer labels, per pixel and as a task loss."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.distillation.losses.labels import check_labels


def pixel_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """-log softmax of the true class in fp32: logits (B, K, H, W), target (B, 1, H, W), result (B, H, W)."""
    return F.cross_entropy(logits.float(), target.squeeze(1), reduction="none")


class CrossEntropyLoss(nn.Module):
    """Cross-entropy, averaged over images or pixels, or a weighted mean where classes have weights.

    The weighted mean divides by the sum of the weights of the batch's targets, as torch's does: a batch of one class
    costs the same whatever its weight. With label smoothing the target is (1 - label_smoothing) for its class and
    label_smoothing / K for every class beside (Szegedy et al., CVPR 2016).

    Args:
        class_weights: A positive weight a class; or `balanced`, N / (K n) for a class with n of the N training images.
        label_smoothing: Share of the target that is spread over all classes, below 1.
        class_counts: Training images of each class, for `balanced`.
    """

    def __init__(
        self,
        class_weights: Literal["balanced"] | Sequence[float] | None = None,
        label_smoothing: float = 0.0,
        class_counts: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing {label_smoothing} must be at least 0 and below 1; 0.1 is usual")
        if class_weights == "balanced":
            class_weights = _balanced(class_counts)
        elif class_weights is not None and not all(weight > 0 for weight in class_weights):
            raise ValueError(f"class_weights {list(class_weights)} must all be positive")
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)
        self.label_smoothing = label_smoothing

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """logits (B, K) and target (B,), or logits (B, K, H, W) and target (B, 1, H, W), with the labels 0..K-1."""
        check_labels(logits, target)
        if self.class_weights is not None and len(self.class_weights) != logits.shape[1]:
            raise ValueError(f"class_weights has {len(self.class_weights)} values for {logits.shape[1]} classes")
        return F.cross_entropy(
            logits.float(),
            target.squeeze(1) if target.ndim == 4 else target,
            weight=self.class_weights,
            label_smoothing=self.label_smoothing,
        )


def _balanced(class_counts: Sequence[int] | None) -> list[float]:
    if class_counts is None:
        raise ValueError("class_weights balanced: this data does not count its classes; give class_weights as numbers")
    if not all(count > 0 for count in class_counts):
        raise ValueError(
            f"class_weights balanced: a class has no training image (images by class: {list(class_counts)}); "
            "give class_weights as numbers"
        )
    return [sum(class_counts) / (len(class_counts) * count) for count in class_counts]
