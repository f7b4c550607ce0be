"""Distillation of a feature itself: FitNets' hint."""

from torch import Tensor, nn

from utils.losses.projector import Projector, ProjectorKind
from utils.losses.resize import match_size


class HintLoss(nn.Module):
    """Mean squared difference between the projected student feature and the teacher's.

    FitNets (Romero et al., ICLR 2015), with a 1x1 projector in place of its convolution and all terms trained at once
    in place of its two stages. 0 when the features are equal (a projector stands between only where channels differ).
    A student of another size is resized bilinearly to the teacher's.
    """

    def __init__(self, projector: ProjectorKind = "learned") -> None:
        super().__init__()
        self.projector = Projector(projector)

    def forward(self, student: Tensor, teacher: Tensor, target: Tensor | None = None) -> Tensor:
        """student (B, C, h, w) or (B, C), teacher (B, D, H, W) or (B, D); the target is not used."""
        student = match_size(self.projector(student, teacher.shape[1]), teacher.shape[2:])
        return (student.float() - teacher.detach().float()).square().mean()
