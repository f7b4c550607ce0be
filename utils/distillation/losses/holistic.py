"""Distillation of the prediction as a whole: SKD's adversarial term."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

SIZE = 64  # the side at which predictions are judged; the published code accepts 65 only


class _ReverseGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor: Tensor) -> Tensor:
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return -gradient


def _discriminator(num_classes: int, width: int) -> nn.Sequential:
    """Strided convolutions with spectral normalization, one score per patch of the picture."""
    widths = [num_classes, width, 2 * width, 4 * width]
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [spectral_norm(nn.Conv2d(before, after, 4, stride=2, padding=1)), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, spectral_norm(nn.Conv2d(widths[-1], 1, 3, padding=1)))


class HolisticLoss(nn.Module):
    """How well a discriminator knows the teacher's probability maps from the student's: its cross-entropy in nats.

    SKD's holistic term (Liu et al., CVPR 2019). The discriminator is part of this loss and lowers it; the gradient that
    reaches the student is reversed, so the student raises it (Ganin and Lempitsky, ICML 2015). One optimizer and one
    loop train both. At least 0, and no measure of distance: at least log 2 when student equals teacher, log 2 = 0.69
    where it settles when the discriminator cannot separate the two, and less while it can.

    The published code differs: a Wasserstein critic with gradient penalty, an optimizer of its own at 4e-4, and
    logits as its input. Here it is the cross-entropy, whose gradient is bounded; spectral normalization alone; and
    softmax probabilities, because raw logits betray the student by their offset alone. Like the published one it does
    not see the image. The maps are area-averaged to 64 x 64 first, so cost and value do not depend on the image size.
    Created at the first call, when the number of classes is known.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.width = width
        self.discriminator: nn.Module | None = None

    def forward(self, student: Tensor, teacher: Tensor, target: Tensor | None = None) -> Tensor:
        """student and teacher logits (B, K, H, W), sizes may differ; the target is not used."""
        if student.shape[1] != teacher.shape[1]:
            raise ValueError(
                f"student logits have {student.shape[1]} classes and the teacher's {teacher.shape[1]}: "
                "the holistic term compares logits of the same classes"
            )
        if self.discriminator is None:
            with torch.inference_mode(False):  # the first call may be a dry run; what it creates must be trainable
                self.discriminator = _discriminator(student.shape[1], self.width).to(student.device)
        with torch.autocast(student.device.type, enabled=False):
            maps = [F.adaptive_avg_pool2d(side.float().softmax(1), SIZE) for side in (student, teacher.detach())]
            maps[0] = _ReverseGradient.apply(maps[0])
            student_score, teacher_score = self.discriminator(torch.cat(maps)).chunk(2)
            return 0.5 * (F.softplus(student_score).mean() + F.softplus(-teacher_score).mean())
