"""Distillation of how probabilities relate to each other, not of what they are: DIST."""

import torch.nn.functional as F
from torch import Tensor, nn

from utils.distillation.losses.labels import check_classes
from utils.distillation.losses.resize import match_size


def pearson_distance(student: Tensor, teacher: Tensor, dim: int) -> Tensor:
    """1 - the correlation along `dim`, averaged over the rest: half the squared distance of the centered unit vectors.

    So it is 0 where both are constant and 1/2 where one is; the published code has 1 for both. Elsewhere they agree.
    """
    student, teacher = (
        F.normalize(side - side.mean(dim, keepdim=True), dim=dim, eps=1e-6) for side in (student, teacher)
    )
    return (student - teacher).square().sum(dim).mean() / 2


class DistLoss(nn.Module):
    """temperature^2 times (inter_weight inter + intra_weight intra): 1 - the correlation of student and teacher.

    DIST (Huang et al., NeurIPS 2022). Inter: of a pixel's (or image's) probabilities over the classes. Intra: of a
    class's probabilities over all pixels of the batch. A student weaker than its teacher may keep other confidences as
    long as the relations agree: 0 when the two are equal, or linear functions of each other with positive slopes.

    For two classes inter is degenerate: two centered numbers are always x and -x, so the correlation is 1 or -1 and has
    no gradient. It is refused; `inter_weight: 0` leaves intra, which is sound (its author calls DIST less effective
    there). The published segmentation code has both weights 1 and no temperature; the factor temperature^2 is Hinton's.
    """

    def __init__(self, inter_weight: float = 1.0, intra_weight: float = 1.0, temperature: float = 1.0) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"temperature {temperature} must be above 0; 1 is the published value")
        if inter_weight < 0 or intra_weight < 0 or inter_weight + intra_weight == 0:
            raise ValueError(
                f"inter_weight {inter_weight} and intra_weight {intra_weight} must be at least 0, one of them above"
            )
        self.inter_weight = inter_weight
        self.intra_weight = intra_weight
        self.temperature = temperature

    def forward(self, student: Tensor, teacher: Tensor, target: Tensor | None = None) -> Tensor:
        """Logits (B, K) or (B, K, H, W), a student of another size resized bilinearly; the target is not used."""
        check_classes(student, teacher)
        if student.shape[1] == 2 and self.inter_weight > 0:
            raise ValueError(
                "dist needs three classes: of two, the correlation over classes is always 1 or -1 and teaches nothing; "
                "give inter_weight: 0, or task: all where the data has an organ and a tumor"
            )
        student, teacher = (
            (side.float() / self.temperature).softmax(1).movedim(1, -1).flatten(0, -2)
            for side in (match_size(student, teacher.shape[2:]), teacher.detach())
        )
        loss = self.intra_weight * pearson_distance(student, teacher, dim=0)
        if self.inter_weight > 0:
            loss = loss + self.inter_weight * pearson_distance(student, teacher, dim=1)
        return self.temperature**2 * loss
