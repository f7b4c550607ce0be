"""Distillation of how alike every two positions look: SKD's pairwise term."""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Pool = Literal["avg", "max"]


class PairwiseLoss(nn.Module):
    """Mean squared difference between student and teacher of the cosines between every two nodes of a pooled grid.

    SKD (Liu et al., CVPR 2019). 0 when the features are equal up to a factor per node; 4 at most. Both features are
    pooled to the same `grid` x `grid` nodes (fewer where a map is smaller), so sizes and channels may differ. Memory is
    bounded: one affinity is grid^4 numbers per image, 16 KB in fp32 for the default 8, whatever the image.

    The paper averages, its code takes the maximum (`pool="max"`) and pools by a share of the map, 0.5, which leaves 2x2
    or 3x3 nodes: `scale=0.5` reproduces that in place of `grid` and needs features of about one size. The code also
    stops the gradient in the norms of the cosine; here it flows.
    """

    def __init__(self, grid: int = 8, pool: Pool = "avg", scale: float | None = None) -> None:
        super().__init__()
        if pool not in get_args(Pool):
            raise ValueError(f"pool {pool!r} is unknown: choose avg (the paper) or max (its code)")
        if grid < 2:
            raise ValueError(f"grid {grid} leaves no pair of nodes: give 2 or more nodes per side")
        if scale is not None and not 0 < scale <= 0.5:
            raise ValueError(f"scale {scale} is the share of a side that one node covers: give 0 < scale <= 0.5")
        self.grid = grid
        self.pool: Pool = pool
        self.scale = scale

    def forward(self, student: Tensor, teacher: Tensor, target: Tensor | None = None) -> Tensor:
        """student (B, C, h, w), teacher (B, D, H, W); the target is not used."""
        grid = [min(self.grid, *sides) for sides in zip(student.shape[2:], teacher.shape[2:], strict=True)]
        student_nodes, teacher_nodes = self._nodes(student, grid), self._nodes(teacher.detach(), grid)
        if student_nodes.shape[2] != teacher_nodes.shape[2]:
            raise ValueError(
                f"scale {self.scale} pools {tuple(student.shape[2:])} and {tuple(teacher.shape[2:])} to different "
                "grids: tap features of one size, or give grid instead of scale"
            )
        with torch.autocast(student.device.type, enabled=False):
            student_affinity = student_nodes.transpose(1, 2) @ student_nodes
            teacher_affinity = teacher_nodes.transpose(1, 2) @ teacher_nodes
        return (student_affinity - teacher_affinity).square().mean()

    def _nodes(self, feature: Tensor, grid: list[int]) -> Tensor:
        """(B, C, H, W) to unit vectors (B, C, nodes)."""
        feature = feature.float()
        if self.scale is not None:
            kernel = [max(1, int(self.scale * side)) for side in feature.shape[2:]]
            pool = F.max_pool2d if self.pool == "max" else F.avg_pool2d
            nodes = pool(feature, kernel, stride=kernel, ceil_mode=True)
        else:
            nodes = (F.adaptive_max_pool2d if self.pool == "max" else F.adaptive_avg_pool2d)(feature, grid)
        return F.normalize(nodes.flatten(2), dim=1, eps=1e-6)
