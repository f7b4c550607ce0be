"""What is done to a teacher's feature before a student learns it."""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

Normalization = Literal["none", "standardize", "whiten"]


def check_normalization(kind: str) -> None:
    """Raises ValueError for an unknown kind."""
    if kind not in get_args(Normalization):
        raise ValueError(
            f"teacher_normalization {kind!r} is unknown: choose one of {', '.join(get_args(Normalization))}"
        )


def normalized(feature: Tensor, kind: Normalization) -> Tensor:
    """The feature (B, C, ...) as VkD (Miles et al., CVPR 2024) gives it to the student.

    - `standardize`: mean 0 and variance 1 over the channels of each position (a layer norm without parameters). VkD's
      code does this for classification, to pooled features. For detection it standardizes each channel over all
      positions of the batch instead, and the student's feature as well as the teacher's; that is not offered here.
    - `whiten`: channels without correlation, each of variance 1 over all positions of the batch, and otherwise as near
      to the feature as can be (ZCA). The paper has it for generation, whose code was not released. Directions that
      hardly vary stay small.
    """
    if kind == "none":
        return feature
    with torch.autocast(feature.device.type, enabled=False):
        feature = feature.float()
        if kind == "standardize":
            return F.layer_norm(feature.movedim(1, -1), feature.shape[1:2]).movedim(-1, 1)
        columns = feature.movedim(1, 0).flatten(1)
        columns = columns - columns.mean(1, keepdim=True)
        covariance = columns @ columns.T / columns.shape[1]
        variances, directions = torch.linalg.eigh(covariance)
        least = 1e-4 * variances.mean() + 1e-12
        whitening = directions * torch.rsqrt(variances.clamp_min(0) + least) @ directions.T
        shape = feature.movedim(1, 0).shape
        return (whitening @ columns).reshape(shape).movedim(0, 1)
