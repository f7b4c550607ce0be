"""Task losses `loss(logits, target)` and distillation losses `loss(student, teacher, target)` by name."""

from utils.losses.attention_transfer import AttentionTransferLoss, UnifiedAttentionLoss
from utils.losses.cross_entropy import CrossEntropyLoss
from utils.losses.decoupled import DecoupledLoss
from utils.losses.dice import DiceCrossEntropyLoss, DiceFocalLoss, DiceLoss
from utils.losses.hard_target import HardTargetLoss
from utils.losses.hint import HintLoss
from utils.losses.holistic import HolisticLoss
from utils.losses.pairwise import PairwiseLoss
from utils.losses.region_affinity import RegionAffinityLoss
from utils.losses.soft_target import SoftTargetLoss, UnifiedSoftTargetLoss

TASK_LOSSES = {
    "cross_entropy": CrossEntropyLoss,
    "dice": DiceLoss,
    "dice_ce": DiceCrossEntropyLoss,
    "dice_focal": DiceFocalLoss,
}

DISTILLATION_LOSSES = {
    "attention_transfer": AttentionTransferLoss,
    "decoupled": DecoupledLoss,
    "hard_target": HardTargetLoss,
    "hint": HintLoss,
    "holistic": HolisticLoss,
    "pairwise": PairwiseLoss,
    "region_affinity": RegionAffinityLoss,
    "soft_target": SoftTargetLoss,
    "unified_attention": UnifiedAttentionLoss,
    "unified_soft_target": UnifiedSoftTargetLoss,
}
