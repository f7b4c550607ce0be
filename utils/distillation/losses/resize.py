"""Brings feature maps to one size and several maps into one; refuses features that are not maps."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def check_maps(student: Tensor, teacher: Tensor) -> None:
    """Raises ValueError unless both features are maps (B, C, H, W)."""
    if student.ndim != 4 or teacher.ndim != 4:
        raise ValueError(
            f"student {tuple(student.shape)} and teacher {tuple(teacher.shape)} must both be maps (B, C, H, W): "
            "tap features before they are pooled; for one answer per image use soft_target"
        )


def match_size(feature: Tensor, size: Sequence[int], align_corners: bool = False) -> Tensor:
    """Bilinear resize of (B, C, H, W) to (H, W); vectors and equal sizes stay as they are.

    By default corners are not aligned, as in EMKD; HLFD aligns them where its students resize their features to the
    image. In float32: a map that is resized in bfloat16 loses four digits.
    """
    if feature.ndim != 4 or feature.shape[2:] == torch.Size(size):
        return feature
    return F.interpolate(feature.float(), size=tuple(size), mode="bilinear", align_corners=align_corners)


def concatenate_features(features: Tensor | Sequence[Tensor]) -> Tensor:
    """One map from several: each averaged down to the smallest height and width, then joined along the channels.

    HLFD resizes bilinearly here, which is the same for a factor of two and skips pixels beyond. A single map comes back
    as is.
    """
    if isinstance(features, Tensor):
        return features
    size = min(feature.shape[2] for feature in features), min(feature.shape[3] for feature in features)
    return torch.cat([F.adaptive_avg_pool2d(feature, size) for feature in features], dim=1)
