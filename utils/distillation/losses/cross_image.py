"""Distillation of how alike the pixels of different images look: CIRKD's mini-batch term."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.distillation.losses.resize import check_maps


class CrossImageLoss(nn.Module):
    """Mean of KL(teacher || student) between what each pixel sees in each image of the batch.

    CIRKD's mini-batch distillation (Yang et al., CVPR 2022). A pixel's row is the softmax, over the positions of one
    image, of its cosines with them divided by `temperature`; the mean is over all pixels and all ordered pairs of
    images, an image with itself among them, as published. A batch of one image has that pair only: the relation within
    the image. 0 when the features are equal up to a factor per pixel. Channels may differ, as cosines are compared.

    The published code compares all pixels, (B H W)^2 cosines, and since 2022 pools features of 256 pixels a side and
    more by 4x4 (256 times fewer cosines; before that by 2x2, 16 times fewer). Here both features are averaged to the
    same `grid` x `grid` nodes (fewer where a map is smaller), so sizes may differ and memory is bounded: B^2 grid^4
    numbers, 4 MB in fp32 for 16 images. The images are those of one process, as in the code, where gathering from all
    is commented out; the memory of past pixels and regions is not here. The value depends on which images share a
    batch, not how many.
    """

    def __init__(self, temperature: float = 0.1, grid: int = 8) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"temperature {temperature} must be above 0; 0.1 is the published value")
        if grid < 2:
            raise ValueError(f"grid {grid} leaves one node per image, and nothing to compare: give 2 or more per side")
        self.temperature = temperature
        self.grid = grid

    def forward(self, student: Tensor, teacher: Tensor, target: Tensor | None = None) -> Tensor:
        """student (B, C, h, w), teacher (B, D, H, W); the target is not used."""
        check_maps(student, teacher)
        grid = [min(self.grid, *sides) for sides in zip(student.shape[2:], teacher.shape[2:], strict=True)]
        if grid == [1, 1]:
            raise ValueError("features of one pixel have nothing to compare: tap an earlier place")
        log_student, log_teacher = (self._log_rows(side, grid) for side in (student, teacher.detach()))
        rows = log_student.shape[0] * log_student.shape[1]
        return F.kl_div(log_student, log_teacher, reduction="sum", log_target=True) / rows

    def _log_rows(self, feature: Tensor, grid: list[int]) -> Tensor:
        """Log probabilities (B nodes, B, nodes): of each node, over the nodes of each image."""
        nodes = F.normalize(F.adaptive_avg_pool2d(feature.float(), grid).flatten(2), dim=1, eps=1e-6)
        batch, channels, count = nodes.shape
        nodes = nodes.movedim(1, 2).reshape(-1, channels)
        with torch.autocast(feature.device.type, enabled=False):
            cosines = nodes @ nodes.T
        return F.log_softmax(cosines.view(-1, batch, count) / self.temperature, dim=2)
