"""Distillation of class probabilities with the target class and the others apart: decoupled knowledge distillation."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.distillation.losses.labels import check_labels, match_labels
from utils.distillation.losses.resize import match_size


class DecoupledLoss(nn.Module):
    """temperature^2 times alpha TCKD + beta NCKD, averaged over images or pixels.

    DKD (Zhao et al., CVPR 2022). With p the softmax of the logits / temperature: TCKD is the divergence KL(teacher ||
    student) of (p of the target class, all the rest), NCKD that of the softmax over the other classes only. Hinton's
    soft targets are TCKD + (1 - the teacher's p of the target class) NCKD, which hushes NCKD where the teacher is sure.
    0 when the two are equal.

    The defaults are CIFAR-100's (alpha 1, beta 8 for most pairs); for ImageNet the paper has beta 0.5 and temperature
    1. The published code also raises the weight from 0 over the first 20 epochs; this does not.
    """

    def __init__(self, alpha: float = 1.0, beta: float = 8.0, temperature: float = 4.0) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"temperature {temperature} must be above 0; 4 is the published value")
        if alpha < 0 or beta < 0 or alpha + beta == 0:
            raise ValueError(f"alpha {alpha} and beta {beta} must be at least 0, and one of them above")
        self.alpha = alpha
        self.beta = beta
        self.temperature = temperature

    def forward(self, student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
        """Logits (B, K) and target (B,), or logits (B, K, H, W) and target (B, 1, H, W); K of at least 3, equal.

        A student of another size is resized bilinearly to the teacher's, the target to its nearest pixels.
        """
        check_labels(teacher, target)
        classes = teacher.shape[1]
        if student.shape[1] != classes:
            raise ValueError(f"student and teacher have {student.shape[1]} and {classes} classes: tap both logits")
        if classes == 2:
            raise ValueError(
                "decoupled needs three classes: of two, one is left beside the target's, its share of the rest is "
                "always 1 and NCKD always 0; use soft_target"
            )
        student = match_size(student, teacher.shape[2:]).float() / self.temperature
        teacher = teacher.detach().float() / self.temperature
        labels = torch.arange(classes, device=target.device).view(1, -1, *(1,) * (teacher.ndim - 2))
        of_target = match_labels(target, teacher.shape[2:]) == labels
        student_target, student_others = _split(student, of_target)
        teacher_target, teacher_others = _split(teacher, of_target)
        loss = self.alpha * _divergence(student_target, teacher_target)
        loss = loss + self.beta * _divergence(student_others, teacher_others)
        return self.temperature**2 * loss


def _split(logits: Tensor, of_target: Tensor) -> tuple[Tensor, Tensor]:
    """Log probabilities: (B, 2, ...) of the target class and the rest; (B, K, ...) among the rest, 0 at the target."""
    log_probability = F.log_softmax(logits, dim=1)
    target = log_probability.masked_fill(~of_target, 0).sum(1)
    rest = log_probability.masked_fill(of_target, -torch.inf).logsumexp(1)
    others = F.log_softmax(logits.masked_fill(of_target, -torch.inf), dim=1).masked_fill(of_target, 0)
    return torch.stack([target, rest], 1), others


def _divergence(log_student: Tensor, log_teacher: Tensor) -> Tensor:
    """KL(teacher || student) over dim 1, averaged over the rest; equal entries count nothing."""
    rows = log_student.numel() / log_student.shape[1]
    return F.kl_div(log_student, log_teacher, reduction="sum", log_target=True) / rows
