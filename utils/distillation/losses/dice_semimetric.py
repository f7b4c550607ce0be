"""Distillation of probabilities by their overlap: Dice that is least where student and teacher agree."""

from torch import Tensor, nn

from utils.distillation.losses.labels import check_classes
from utils.distillation.losses.resize import check_maps, match_size


class DiceSemimetricLoss(nn.Module):
    """A Dice loss of the student's softmax p and the teacher's q, one ratio a class over the batch, mean of classes.

    Dice semimetric losses (Wang et al., MICCAI 2023), their first form, with the sums over all pixels of the batch:
        1 - (|p| + |q| - |p - q|) / (|p| + |q|) = |p - q| / (|p| + |q|)
    This is soft Dice where q is 0 or 1. Where it is not, soft Dice is least at p = 0 or 1, against the teacher; this is
    0 at p = q and only there.

    The published code (JDT) counts the background (`include_background=True`) and adds `smooth` pixels to
    both sides of the ratio: 0.001 by the class's default, 1.0 in all its training configurations. Here `smooth` is a
    share of all pixels, so that the value does not depend on their number, and 0 stays the least.
    """

    def __init__(self, include_background: bool = False, smooth: float = 1e-6) -> None:
        super().__init__()
        if smooth <= 0:
            raise ValueError(f"smooth {smooth} must be above 0: a class that nobody sees would be 0 / 0")
        self.include_background = include_background
        self.smooth = smooth

    def forward(self, student: Tensor, teacher: Tensor, target: Tensor | None = None) -> Tensor:
        """Logits: student (B, K, h, w), resized bilinearly to teacher (B, K, H, W); the target is not used."""
        check_maps(student, teacher)
        check_classes(student, teacher)
        first = 0 if self.include_background else 1
        student, teacher = (
            side.float().softmax(1)[:, first:] for side in (match_size(student, teacher.shape[2:]), teacher.detach())
        )
        apart = (student - teacher).abs().mean((0, 2, 3))
        whole = student.mean((0, 2, 3)) + teacher.mean((0, 2, 3))
        return (apart / (whole + self.smooth)).mean()
