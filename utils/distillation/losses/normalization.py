"""What is done to a teacher's feature before a student learns it."""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

Normalization = Literal["none", "standardize"]


def check_normalization(kind: str) -> None:
    """Raises ValueError for an unknown kind."""
    if kind not in get_args(Normalization):
        raise ValueError(
            f"teacher_normalization {kind!r} is unknown: choose one of {', '.join(get_args(Normalization))}"
        )


def normalized(feature: Tensor, kind: Normalization) -> Tensor:
    """The feature (B, C, ...) as VkD (Miles et al., CVPR 2024) gives it to the student.

    `standardize` gives each position mean 0 and variance 1 over the channels (a layer norm without parameters). VkD's
    code does this for classification, to pooled features. For detection it standardizes each channel over all positions
    of the batch instead, and the student's feature as well as the teacher's; the paper whitens features for generation.
    Neither is offered here.
    """
    if kind == "none":
        return feature
    with torch.autocast(feature.device.type, enabled=False):
        return F.layer_norm(feature.float().movedim(1, -1), feature.shape[1:2]).movedim(-1, 1)
