"""Task losses for segmentation: soft Dice over the batch, alone, with focal loss, with cross-entropy."""

import torch
from torch import Tensor, nn

from utils.distillation.losses.cross_entropy import pixel_cross_entropy
from utils.distillation.losses.labels import check_labels


def refuse_vectors(logits: Tensor) -> None:
    """Raises ValueError for the logits of whole images: there is no mask to overlap with."""
    if logits.ndim != 4:
        raise ValueError(
            f"logits {tuple(logits.shape)}: the Dice losses are for masks (B, K, H, W); for one class an image use "
            "task_loss cross_entropy"
        )


class DiceLoss(nn.Module):
    """One minus the soft Dice of the softmax, one ratio per class over the whole batch, averaged over classes.

    Milletari et al., 3DV 2016. Value and gradient are those of MONAI's `DiceLoss(to_onehot_y=True, softmax=True,
    batch=True)`, which is not used because importing MONAI takes longer than all else before the first step. Over the
    batch, because taken per slice a perfect prediction of an empty slice is an accident of the smoothing.
    `include_background=False` and `smooth=1.0` (added to both sides of the ratio) are EMKD's and HLFD's values; the
    U-Net tutorial's soft Dice counts every class.
    """

    def __init__(self, include_background: bool = False, smooth: float = 1.0) -> None:
        super().__init__()
        self.first_class = 0 if include_background else 1
        self.smooth = smooth

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """logits (B, K, H, W), target (B, 1, H, W) with the labels 0..K-1. Raises ValueError for other shapes."""
        refuse_vectors(logits)
        check_labels(logits, target)
        probability = logits.float().softmax(1)[:, self.first_class :]
        classes = torch.arange(self.first_class, logits.shape[1], device=logits.device)
        truth = (target == classes[:, None, None]).float()
        pixels = (0, 2, 3)
        overlap, sizes = (probability * truth).sum(pixels), probability.sum(pixels) + truth.sum(pixels)
        return (1 - (2 * overlap + self.smooth) / (sizes + self.smooth)).mean()


class DiceFocalLoss(nn.Module):
    """Weighted sum of the soft Dice loss and the focal loss: the supervised part of EMKD and HLFD (0.5 and 0.5).

    Focal loss (Lin et al., ICCV 2017): the mean over pixels of -(1 - p)^gamma log p, p the softmax of the true class.
    MONAI's `DiceFocalLoss` is another loss (a sigmoid per class), and its softmax `FocalLoss` divides by the number of
    classes too. The published code stops the gradient in the factor (1 - p)^gamma, which is then not the focal
    gradient: the value is the same, the gradient weaker. `detach_focal_weight=True` reproduces that.
    """

    def __init__(
        self,
        gamma: float = 2.0,
        dice_weight: float = 0.5,
        focal_weight: float = 0.5,
        detach_focal_weight: bool = False,
        include_background: bool = False,
        smooth: float = 1.0,
    ) -> None:
        super().__init__()
        self.dice = DiceLoss(include_background, smooth)
        self.gamma = gamma
        self.dice_weight = dice_weight
        self.focal_weight = focal_weight
        self.detach_focal_weight = detach_focal_weight

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """logits (B, K, H, W), target (B, 1, H, W) with the labels 0..K-1."""
        refuse_vectors(logits)
        cross_entropy = pixel_cross_entropy(logits, target)
        probability = torch.exp(-cross_entropy.detach() if self.detach_focal_weight else -cross_entropy)
        focal = ((1 - probability) ** self.gamma * cross_entropy).mean()
        return self.dice_weight * self.dice(logits, target) + self.focal_weight * focal


class DiceCrossEntropyLoss(nn.Module):
    """Weighted sum of the soft Dice loss and the mean cross-entropy of the pixels (nnU-Net's pair, 1 and 1)."""

    def __init__(
        self,
        dice_weight: float = 1.0,
        cross_entropy_weight: float = 1.0,
        include_background: bool = False,
        smooth: float = 1.0,
    ) -> None:
        super().__init__()
        self.dice = DiceLoss(include_background, smooth)
        self.dice_weight = dice_weight
        self.cross_entropy_weight = cross_entropy_weight

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """logits (B, K, H, W), target (B, 1, H, W) with the labels 0..K-1."""
        refuse_vectors(logits)
        cross_entropy = pixel_cross_entropy(logits, target).mean()
        return self.dice_weight * self.dice(logits, target) + self.cross_entropy_weight * cross_entropy
