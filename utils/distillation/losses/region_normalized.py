"""Distillation of a feature in which every class region counts the same, whatever its size."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.distillation.losses.labels import check_mask
from utils.distillation.losses.projector import Projector, ProjectorKind
from utils.distillation.losses.resize import check_maps, match_size


def unit_vectors(feature: Tensor) -> Tensor:
    """Each position's channels (B, C, H, W) at length 1, in fp32; shorter where they are nearly 0 beside others'."""
    feature = feature.float()
    squares = feature.square().sum(1, keepdim=True)
    least = 1e-4 * squares.detach().mean((2, 3), keepdim=True) + 1e-12
    return feature * torch.rsqrt(squares + least)


class RegionNormalizedLoss(nn.Module):
    """Squared distance of the two features' directions: mean of each region, then of a class's regions, of classes.

    The formula is ours. To divide a region by its area is older: FGD (Yang et al., CVPR 2022) does it for the boxes of
    detection, ReCo-KD (arXiv 2601.08301) for the classes of a volume. At every position both features are vectors of
    length 1, their squared distance is 2 - 2 cos, from 0 to 4. A region is what an image's target has of one class. The
    mean over a region weighs a position with the share of it that the class covers (the target area-averaged to the
    feature); then it is averaged over the images that have the class, and over the classes that the batch has. So a
    tumor of 3 pixels counts like one of 3000, and tumors together like the background, in every batch that has one. A
    class that is nowhere is left out, and an image without labels (-1). 0 when the features are equal up to a positive
    factor at each position. It does not depend on the size of image, feature or batch.

    Why: region affinity (EMKD's RAD) falls silent for small tumors. Its code cuts regions out of a target resized to
    the nearest pixel of the feature, where a tumor of radius 2 is gone at 83 % of its places (384 to 48 pixels), and an
    image that is left with one class has no pair to compare. Where the tumor stays (always, in our region_affinity) it
    is one mean vector beside others: its inside and border may be anything. A plain mean over the feature (hint) hears
    every pixel, but 20 beside 147000. Here areas keep every tumor, and the mean of a region is its own.

    `num_classes` counts the background; recipes take it from the data.
    """

    def __init__(self, num_classes: int, projector: ProjectorKind = "learned") -> None:
        super().__init__()
        self.num_classes = num_classes
        self.projector = Projector(projector)

    def forward(self, student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
        """student (B, C, h, w), resized bilinearly to teacher (B, D, H, W); target (B, 1, Y, X) with integer labels."""
        check_maps(student, teacher)
        check_mask(target)
        student = match_size(self.projector(student, teacher.shape[1]), teacher.shape[2:])
        distance = (unit_vectors(student) - unit_vectors(teacher.detach())).square().sum(1, keepdim=True)
        labels = torch.arange(self.num_classes, device=target.device).view(1, -1, 1, 1)
        regions = F.interpolate((target == labels).float(), size=teacher.shape[2:], mode="area")
        areas = regions.sum((2, 3))
        present = areas > 0
        means = (regions * distance).sum((2, 3)) / torch.where(present, areas, 1.0)
        images = present.sum(0)
        classes = means.sum(0) / images.clamp_min(1)
        return classes.sum() / (images > 0).sum().clamp_min(1)
