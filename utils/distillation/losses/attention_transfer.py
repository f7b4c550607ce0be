"""Distillation of where a feature is active: attention transfer, and HLFD's unified form."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.distillation.losses.resize import concatenate_features, match_size


class _ChannelEnergy(torch.autograd.Function):
    """Sum over channels of |feature|^power in fp32: (B, C, H, W) of any precision to (B, H, W).

    By autograd alone it keeps three fp32 copies of the feature and walks them ten times; at 64 channels of 192x192 that
    was nine times slower on a CPU. This keeps nothing but the feature, and takes one image at a time where that stays
    in cache.
    """

    @staticmethod
    def forward(ctx, feature: Tensor, power: float) -> Tensor:
        ctx.save_for_backward(feature)
        ctx.power = power
        images = feature.split(_images_at_once(feature))
        return torch.cat([image.float().square().pow(power / 2).sum(1) for image in images])

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        (feature,) = ctx.saved_tensors
        result = torch.empty_like(feature)
        step = _images_at_once(feature)
        scale = (ctx.power * gradient).unsqueeze(1)
        for image, factor, out in zip(feature.split(step), scale.split(step), result.split(step), strict=True):
            image = image.float()
            slope = image.pow(ctx.power - 1) if ctx.power % 2 == 0 else image.abs().pow(ctx.power - 1) * image.sign()
            out.copy_(slope.mul_(factor))
        return result, None


def _images_at_once(feature: Tensor) -> int:
    return 1 if feature.device.type == "cpu" else len(feature)


def attention(feature: Tensor, power: float) -> Tensor:
    """The unit vector (B, H*W) of the sums over channels of |feature|^power, in fp32; 0 where the feature is 0."""
    energy = _ChannelEnergy.apply(feature, power).flatten(1)
    largest = energy.detach().amax(1, keepdim=True)  # to within [0, 1] first: the square of a fourth power may overflow
    return F.normalize(energy / torch.where(largest > 0, largest, 1.0), eps=1e-6)


def attention_distance(student: Tensor, teacher: Tensor, power: float, squared: bool) -> Tensor:
    """The (squared) Euclidean distance of the two attention vectors, averaged over the batch."""
    difference = attention(student, power) - attention(teacher.detach(), power)
    return difference.square().sum(1).mean() if squared else torch.linalg.vector_norm(difference, dim=1).mean()


def _check(power: float) -> None:
    if power < 1:
        raise ValueError(f"power {power} must be at least 1; published are 1, 2 and 4")


class AttentionTransferLoss(nn.Module):
    """Squared distance between the L2-normalized attention maps of the two features, averaged over the batch.

    Zagoruyko and Komodakis, ICLR 2017 (power 2); EMKD's and HLFD's importance-map distillation (IMD). 0 when the
    features are equal up to a factor, 2 at most. It sums over pixels what has been normalized over pixels, so it does
    not depend on the image size (codebases that take a mean instead need weights near 1000). Channels may differ, so
    there is no projector; a student of another size is resized bilinearly to the teacher's.

    EMKD's code has power 4 and the squared distance (`power=4`), its paper power 1 and the distance itself
    (`power=1, squared=False`).
    """

    def __init__(self, power: float = 2, squared: bool = True) -> None:
        super().__init__()
        _check(power)
        self.power = power
        self.squared = squared

    def forward(self, student: Tensor, teacher: Tensor, target: Tensor | None = None) -> Tensor:
        """student (B, C, h, w), teacher (B, D, H, W); the target is not used."""
        return attention_distance(match_size(student, teacher.shape[2:]), teacher, self.power, self.squared)


class UnifiedAttentionLoss(nn.Module):
    """Attention transfer between one feature and several, averaged down to the smallest and joined along the channels.

    HLFD's unified feature terms (`recur_cat_importance_maps_distillation` with the list on the teacher's side,
    `cat_importance_maps_distillation` on the student's), power 4. The joined side is resized bilinearly to the other's
    size. There is nothing to project.
    """

    def __init__(self, power: float = 4, squared: bool = True) -> None:
        super().__init__()
        _check(power)
        self.power = power
        self.squared = squared

    def forward(
        self, student: Tensor | Sequence[Tensor], teacher: Tensor | Sequence[Tensor], target: Tensor | None = None
    ) -> Tensor:
        """Each side (B, C, H, W) or a list of such maps; the target is not used."""
        teacher_is_joined = not isinstance(teacher, Tensor)
        student, teacher = concatenate_features(student), concatenate_features(teacher)
        if teacher_is_joined:
            teacher = match_size(teacher, student.shape[2:])
        else:
            student = match_size(student, teacher.shape[2:])
        return attention_distance(student, teacher, self.power, self.squared)
