"""Integer labels of images (B,) or pixels (B, 1, H, W), beside logits."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def check_labels(logits: Tensor, target: Tensor) -> None:
    """Raises ValueError unless logits (B, K) come with target (B,), or logits (B, K, H, W) with target (B, 1, H, W)."""
    if (logits.ndim, target.ndim) not in ((2, 1), (4, 4)):
        raise ValueError(
            f"logits {tuple(logits.shape)} and target {tuple(target.shape)} do not fit: they must be "
            "(B, K) and (B,), or (B, K, H, W) and (B, 1, H, W)"
        )


def check_classes(student: Tensor, teacher: Tensor) -> None:
    """Raises ValueError unless both are logits of one number of classes, for images or for pixels."""
    if student.shape[1] != teacher.shape[1] or student.ndim != teacher.ndim:
        raise ValueError(
            f"student {tuple(student.shape)} and teacher {tuple(teacher.shape)} must be logits of the same classes: "
            "tap both logits"
        )


def check_mask(target: Tensor) -> None:
    """Raises ValueError unless target is a mask (B, 1, Y, X); one label an image would be taken for a row of pixels."""
    if target.ndim != 4:
        raise ValueError(
            f"target {tuple(target.shape)} has no regions: this loss needs a mask (B, 1, Y, X) of every image; for one "
            "label an image use soft_target or hint"
        )


def match_labels(target: Tensor, size: Sequence[int]) -> Tensor:
    """The nearest pixels of (B, 1, Y, X) at (H, W); equal sizes stay as they are, and (B,) becomes (B, 1)."""
    if target.ndim == 1:
        return target[:, None]
    if target.shape[2:] == torch.Size(size):
        return target
    return F.interpolate(target.float(), size=tuple(size), mode="nearest").long()
