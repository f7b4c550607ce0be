"""Distillation of a feature weighed by its own attention over channels and positions: AttnFD."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.distillation.losses.normalization import Normalization, check_normalization, normalized
from utils.distillation.losses.projector import Projector, ProjectorKind
from utils.distillation.losses.resize import check_maps, match_size


def refined(feature: Tensor) -> Tensor:
    """The feature (B, C, H, W) times its attention over channels, then over positions, in fp32.

    Attention is the sigmoid of the z-score of mean plus maximum: over the image for a channel, over the channels for a
    position. A factor in front of the feature does not change it.
    """
    feature = feature.float()
    channels = _z_score(feature.mean((2, 3)) + feature.amax((2, 3)))
    feature = feature * channels.sigmoid()[:, :, None, None]
    positions = _z_score((feature.mean(1) + feature.amax(1)).flatten(1))
    return feature * positions.sigmoid().view_as(feature[:, :1])


def _z_score(values: Tensor) -> Tensor:
    """(B, N) with mean 0 and standard deviation 1 in each row, 0 where all values are one."""
    variance, mean = torch.var_mean(values, dim=1, correction=0, keepdim=True)
    least = 1e-6 * values.detach().square().mean(1, keepdim=True) + 1e-12
    return (values - mean) * torch.rsqrt(variance + least)


class AttentionFeatureLoss(nn.Module):
    """Squared distance of the two features, refined by attention and of length 1 each, averaged over the batch.

    AttnFD (Mansourian et al., arXiv 2403.05451): |s / |s| - t / |t||^2 of features refined by a CBAM (Woo et al., ECCV
    2018). 0 when the features are equal up to a factor, 4 at most. It is a sum over what has been divided by its
    length, so it does not depend on the size of image or feature. A student of another size is resized bilinearly to
    the teacher's.

    Where the released code differs: its CBAMs (two layers over channels, a 7x7 convolution over positions) have
    parameters, most of which its training never changes. The teacher's 21 get no gradient and stay random, as does the
    student's channel attention, which is in no optimizer; only the student's spatial convolution and its normalization
    are trained, and the projectors in the first epoch alone, with the student frozen. The teacher runs in training
    mode. Here attention has no parameters at all, the projector learns throughout, and the teacher is in evaluation
    mode. Its places are the backbone's last stage, the ASPP's output and the decoder's output; see the recipe for ours.
    Its length is that of the whole batch's tensor, and it divides by the batch once more; here each image has length 1
    and the mean is taken once: a weight w there is about w / B here for batches of B. It projects the student's
    channels after their refinement; here before, so that both sides are refined over the same channels. Its projector
    is a 1x1 convolution with batch normalization, here `orthogonal` by default (VkD, Miles et al., CVPR 2024; see
    Projector), with VkD's `teacher_normalization` if asked (then equal features do cost something).
    """

    def __init__(self, projector: ProjectorKind = "orthogonal", teacher_normalization: Normalization = "none") -> None:
        super().__init__()
        check_normalization(teacher_normalization)
        self.teacher_normalization: Normalization = teacher_normalization
        self.projector = Projector(projector)

    def forward(self, student: Tensor, teacher: Tensor, target: Tensor | None = None) -> Tensor:
        """student (B, C, h, w), teacher (B, D, H, W); the target is not used."""
        check_maps(student, teacher)
        student = match_size(self.projector(student, teacher.shape[1]), teacher.shape[2:])
        teacher = normalized(teacher.detach(), self.teacher_normalization)
        student, teacher = (F.normalize(refined(side).flatten(1), eps=1e-6) for side in (student, teacher))
        return (student - teacher).square().sum(1).mean()
