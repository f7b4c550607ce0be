"""Distillation of the teacher's answer: hard targets."""

import torch.nn.functional as F
from torch import Tensor, nn

from utils.distillation.losses.resize import match_size


class HardTargetLoss(nn.Module):
    """Cross-entropy of the student's logits against the teacher's most probable class, averaged over images or pixels.

    DeiT's hard distillation (Touvron et al., ICML 2021), HDKD's `hard`. Not 0 when the two are equal.
    """

    def forward(self, student: Tensor, teacher: Tensor, target: Tensor | None = None) -> Tensor:
        """Logits (B, K) or (B, K, H, W) with one K; a student of another size is resized bilinearly; no target."""
        if student.shape[1] != teacher.shape[1]:
            raise ValueError(
                f"student and teacher have {student.shape[1]} and {teacher.shape[1]} classes: tap both logits"
            )
        student = match_size(student, teacher.shape[2:])
        return F.cross_entropy(student.float(), teacher.detach().argmax(1))
