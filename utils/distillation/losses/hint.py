"""Distillation of a feature itself: FitNets' hint."""

from typing import Literal, get_args

from torch import Tensor, nn

from utils.distillation.losses.normalization import Normalization, check_normalization, normalized
from utils.distillation.losses.projector import Projector, ProjectorKind
from utils.distillation.losses.resize import match_size

Side = Literal["student", "teacher"]


class HintLoss(nn.Module):
    """Mean squared difference between the projected student feature and the teacher's.

    FitNets (Romero et al., ICLR 2015), with a 1x1 projector in place of its convolution and all terms trained at once
    in place of its two stages. 0 when the features are equal (a projector stands between only where channels differ).
    A student map of another size is resized bilinearly to the teacher's.

    Args:
        projector: See Projector.
        pool: Compare vectors: maps averaged over height and width, tokens over the tokens.
        student_class_tokens: How many tokens in front (class, distillation) are left out.
        teacher_class_tokens: The same for the teacher.
        projector_on: `teacher` is what the published ISIC2024KD code does. Its adapter learns from the same squared
            difference as the student, and both can shrink to one constant, a perfect match that says nothing of the
            teacher. On the student's side (VkD, Miles et al., CVPR 2024) the goal stands still.
        teacher_normalization: `standardize`, as VkD; see normalized. Equal features then have a loss above 0.
    """

    def __init__(
        self,
        projector: ProjectorKind = "learned",
        pool: bool = False,
        student_class_tokens: int = 0,
        teacher_class_tokens: int = 0,
        projector_on: Side = "student",
        teacher_normalization: Normalization = "none",
    ) -> None:
        super().__init__()
        if projector_on not in get_args(Side):
            raise ValueError(f"projector_on {projector_on!r} is unknown: choose one of {', '.join(get_args(Side))}")
        check_normalization(teacher_normalization)
        self.teacher_normalization: Normalization = teacher_normalization
        self.pool = pool
        self.class_tokens = (student_class_tokens, teacher_class_tokens)
        self.projector_on: Side = projector_on
        self.projector = Projector(projector)

    def forward(self, student: Tensor, teacher: Tensor, target: Tensor | None = None) -> Tensor:
        """Each side a map (B, C, H, W), tokens (B, N, C) or a vector (B, C); the target is not used."""
        student = self._arranged(student, self.class_tokens[0])
        teacher = self._arranged(teacher.detach(), self.class_tokens[1])
        if student.ndim != teacher.ndim or (student.ndim == 3 and student.shape[2] != teacher.shape[2]):
            kinds = {2: "a vector", 3: "{} tokens", 4: "a map"}
            sides = [kinds[side.ndim].format(side.shape[-1]) for side in (student, teacher)]
            raise ValueError(f"student and teacher feature are {sides[0]} and {sides[1]}: give this term pool: true")
        teacher = normalized(teacher, self.teacher_normalization)
        if self.projector_on == "student":
            student = self.projector(student, teacher.shape[1])
        else:
            teacher = self.projector(teacher, student.shape[1])
        student = match_size(student, teacher.shape[2:])
        return (student.float() - teacher.float()).square().mean()

    def _arranged(self, feature: Tensor, class_tokens: int) -> Tensor:
        """(B, C) where pooled, else (B, C, H, W), (B, C, tokens) or (B, C)."""
        if feature.ndim == 3:
            feature = feature[:, class_tokens:].transpose(1, 2)
        return feature.float().flatten(2).mean(2) if self.pool and feature.ndim > 2 else feature
