"""Distillation of class probabilities: Hinton's soft targets, of images or at every pixel, and HLFD's unified form."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.distillation.losses.projector import Projector, ProjectorKind
from utils.distillation.losses.resize import concatenate_features, match_size

Scale = Literal["pixel", "as_published", "element"]


def soft_target_divergence(student: Tensor, teacher: Tensor, temperature: float, scale: Scale, reverse: bool) -> Tensor:
    """temperature^2 times the mean over pixels of KL(teacher || student) between softmaxes over channels."""
    log_student = F.log_softmax(student.float() / temperature, dim=1)
    log_teacher = F.log_softmax(teacher.detach().float() / temperature, dim=1)
    if reverse:
        log_student, log_teacher = log_teacher, log_student
    divergence = F.kl_div(log_student, log_teacher, reduction="sum", log_target=True)
    columns = {"pixel": student.shape[1], "as_published": 2, "element": 1}[scale]
    return temperature**2 * divergence * columns / student.numel()


def standardized(logits: Tensor) -> Tensor:
    """Logits (B, K, ...) with mean 0 and standard deviation 1 over the classes of each image or pixel, in fp32.

    Raises ValueError for two classes.
    """
    if logits.shape[1] == 2:
        raise ValueError(
            "standardize needs three classes: of two logits, standardized, one is always 0.71 and the other -0.71, "
            "however sure the teacher is, and nothing is left to distil; leave it out"
        )
    logits = logits.float()
    variance, mean = torch.var_mean(logits, dim=1, keepdim=True)
    return (logits - mean) * torch.rsqrt(variance + 1e-6)  # finite, with its gradient, where all logits are equal


def _check(temperature: float, scale: str) -> None:
    if temperature <= 0:
        raise ValueError(f"temperature {temperature} must be above 0; 4 is the published value")
    if scale not in get_args(Scale):
        raise ValueError(f"scale {scale!r} is unknown: choose one of {', '.join(get_args(Scale))}")


class SoftTargetLoss(nn.Module):
    """temperature^2 times KL(teacher || student) of the softmaxes of logits / temperature, mean over pixels or images.

    Hinton et al. 2015; EMKD's prediction-map distillation (PMD), HLFD's PMD and SKD's pixel-wise term (there a
    cross-entropy at temperature 1, which adds the teacher's entropy, a constant, and is not divided by the batch). 0
    when the two are equal and no random projector stands between. A student of another size is resized bilinearly to
    the teacher's; `projector` brings its channels to the teacher's before that (the order is free, both are linear).
    `align_corners=True` resizes as HLFD's students do; the default does not align corners.

    The EMKD paper writes KL(student || teacher) without a temperature, its code what stands here: `reverse=True` gives
    the paper's direction. The published code flattens to rows of two channels before averaging, which multiplies the
    mean over pixels by 2 / channels: nothing for two classes. `scale="as_published"` reproduces that. HDKD's (and
    DeiT's) code divides by images and classes, 1 / channels of the mean: `scale="element"`.

    `standardize=True` is logit standardization (Sun et al., CVPR 2024): each image's logits, the student's and the
    teacher's, become z-scores over the classes before the temperature, so that the student learns the teacher's order
    and spacing of classes and not its confidence. The standard deviation divides by K - 1, as in their code. For three
    classes and more.
    """

    def __init__(
        self,
        temperature: float = 4.0,
        projector: ProjectorKind = "none",
        scale: Scale = "pixel",
        reverse: bool = False,
        standardize: bool = False,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        _check(temperature, scale)
        self.temperature = temperature
        self.scale: Scale = scale
        self.reverse = reverse
        self.standardize = standardize
        self.align_corners = align_corners
        self.projector = Projector(projector)

    def forward(self, student: Tensor, teacher: Tensor, target: Tensor | None = None) -> Tensor:
        """student (B, C, h, w) or (B, C), teacher (B, K, H, W) or (B, K); the target is not used."""
        student = match_size(self.projector(student, teacher.shape[1]), teacher.shape[2:], self.align_corners)
        if self.standardize:
            student, teacher = standardized(student), standardized(teacher)
        return soft_target_divergence(student, teacher, self.temperature, self.scale, self.reverse)


class UnifiedSoftTargetLoss(nn.Module):
    """Soft targets between one feature and several, averaged down to the smallest and joined along the channels.

    HLFD's unified pixel terms (`rec_prediction_map_distillation` with the list on the teacher's side,
    `cat_prediction_map_distillation` on the student's). The joined side is resized bilinearly to the other's size.
    `learned` and `orthogonal` projectors stand on the student's side: on the teacher's, a constant would be a perfect
    match. The published code draws a `random` one for the joined side, whichever it is; so does this.
    """

    def __init__(
        self,
        temperature: float = 4.0,
        projector: ProjectorKind = "learned",
        scale: Scale = "pixel",
        reverse: bool = False,
    ) -> None:
        super().__init__()
        _check(temperature, scale)
        self.temperature = temperature
        self.scale: Scale = scale
        self.reverse = reverse
        self.projector = Projector(projector)

    def forward(
        self, student: Tensor | Sequence[Tensor], teacher: Tensor | Sequence[Tensor], target: Tensor | None = None
    ) -> Tensor:
        """Each side (B, C, H, W) or a list of such maps; the target is not used."""
        teacher_is_joined = not isinstance(teacher, Tensor)
        student, teacher = concatenate_features(student), concatenate_features(teacher).detach()
        if teacher_is_joined and self.projector.kind == "random":
            teacher = self.projector(teacher, student.shape[1])
        else:
            student = self.projector(student, teacher.shape[1])
        if teacher_is_joined:
            teacher = match_size(teacher, student.shape[2:])
        else:
            student = match_size(student, teacher.shape[2:])
        return soft_target_divergence(student, teacher, self.temperature, self.scale, self.reverse)
