"""Cross-entropy of logits against integer labels, per pixel and as a task loss."""

import torch.nn.functional as F
from torch import Tensor, nn


def pixel_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """-log softmax of the true class in fp32: logits (B, K, H, W), target (B, 1, H, W), result (B, H, W)."""
    return F.cross_entropy(logits.float(), target.squeeze(1), reduction="none")


class CrossEntropyLoss(nn.Module):
    """Cross-entropy averaged over pixels."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """logits (B, K, H, W), target (B, 1, H, W) with the labels 0..K-1."""
        return pixel_cross_entropy(logits, target).mean()
