"""Distillation of where each channel is active: channel-wise distillation (CWD)."""

import torch.nn.functional as F
from torch import Tensor, nn

from utils.distillation.losses.projector import Projector, ProjectorKind
from utils.distillation.losses.resize import check_maps, match_size


class ChannelWiseLoss(nn.Module):
    """temperature^2 times KL(teacher || student) of softmaxes over the positions of a channel, averaged over channels.

    CWD (Shu et al., ICCV 2021), for logits and features: temperature^2 / C sum_c KL. The softmax makes of each channel
    a map of where it is most active. n pixels of a tumor outweigh N of background in the tumor's channel where its
    logits stand out by more than temperature ln(N / n): by 5 temperatures for 1 % of the pixels. Where a channel varies
    by less than the temperature, as features after batch normalization do, every position counts the same, and this is
    half the mean squared difference of the channels, each less its mean. 0 when the two are equal, or differ by a
    constant in each channel: which class wins at a pixel is the task loss's.

    The published code is this with a mean over the batch (the formula has one image), and takes log(softmax), which is
    -inf where a probability underflows; this is finite. Code that builds on it brings in a 1x1 convolution where the
    channels differ (`projector: learned`), and weights from 3 to 5 on logits, 5 to 50 on features.
    """

    def __init__(self, temperature: float = 4.0, projector: ProjectorKind = "learned") -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"temperature {temperature} must be above 0; 4 is the published value")
        self.temperature = temperature
        self.projector = Projector(projector)

    def forward(self, student: Tensor, teacher: Tensor, target: Tensor | None = None) -> Tensor:
        """student (B, C, h, w), resized bilinearly to teacher (B, D, H, W); the target is not used."""
        check_maps(student, teacher)
        student = match_size(self.projector(student, teacher.shape[1]), teacher.shape[2:])
        log_student, log_teacher = (
            F.log_softmax(side.float().flatten(2) / self.temperature, dim=2) for side in (student, teacher.detach())
        )
        divergence = F.kl_div(log_student, log_teacher, reduction="sum", log_target=True)
        return self.temperature**2 * divergence / (student.shape[0] * student.shape[1])
