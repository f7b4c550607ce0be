"""Distillation of how alike the classes' regions look: EMKD's region affinity."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.distillation.losses.labels import check_mask
from utils.distillation.losses.resize import check_maps


def region_cosines(feature: Tensor, regions: Tensor) -> Tensor:
    """Cosine between the mean features of every two regions.

    feature (B, C, H, W), regions (B, K, H, W) with the share of each pixel that belongs to each region; (B, K, K). The
    means are not divided by the areas: a cosine does not see it.
    """
    with torch.autocast(feature.device.type, enabled=False):
        sums = regions.flatten(2) @ feature.float().flatten(2).transpose(1, 2)
        directions = F.normalize(sums, dim=2, eps=1e-6)
        return directions @ directions.transpose(1, 2)


class RegionAffinityLoss(nn.Module):
    """Squared difference between student and teacher of the cosines between the mean features of the classes' regions.

    EMKD's region-affinity distillation (RAD; Qin et al., TMI 2021), for any number of classes: averaged over the pairs
    of classes that an image holds, then over the batch. An image with one class has no pair and costs 0. Each side
    takes the regions at its own resolution, so neither channels nor sizes need to agree. 0 when the two are equal.

    A class weighs in each pixel of a feature with the share of the pixel it covers (the one-hot target, area-averaged),
    so a small tumor keeps its region. The published code resizes the target to the nearest pixel instead, where
    tumors of a few pixels vanish, knows two classes only, and is NaN where there is no background;
    `as_published=True` takes the nearest pixel and, for more than two classes, the paper's one number per image: the
    mean over the pairs before the difference.

    `num_classes` counts the background; recipes take it from the data.
    """

    def __init__(self, num_classes: int, as_published: bool = False) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.as_published = as_published

    def forward(self, student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
        """student (B, C, h, w), teacher (B, D, H, W), target (B, 1, Y, X) with integer labels."""
        check_maps(student, teacher)
        check_mask(target)
        labels = torch.arange(self.num_classes, device=target.device).view(1, -1, 1, 1)
        one_hot = (target == labels).float()
        student_regions = self._resize(one_hot, student)
        teacher_regions = student_regions if student.shape[2:] == teacher.shape[2:] else self._resize(one_hot, teacher)
        student_cosines = region_cosines(student, student_regions)
        teacher_cosines = region_cosines(teacher.detach(), teacher_regions)
        present = ((student_regions.amax((2, 3)) > 0) & (teacher_regions.amax((2, 3)) > 0)).float()
        pairs = torch.triu(present[:, :, None] * present[:, None, :], diagonal=1)
        num_pairs = pairs.sum((1, 2)).clamp_min(1)
        difference = (student_cosines - teacher_cosines) * pairs
        if self.as_published:
            return (difference.sum((1, 2)) / num_pairs).square().mean()
        return (difference.square().sum((1, 2)) / num_pairs).mean()

    def _resize(self, one_hot: Tensor, feature: Tensor) -> Tensor:
        return F.interpolate(one_hot, size=feature.shape[2:], mode="nearest" if self.as_published else "area")
