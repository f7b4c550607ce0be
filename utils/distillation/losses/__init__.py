"""Task losses `loss(logits, target)` and distillation losses `loss(student, teacher, target)` by name."""

from utils.distillation.losses.attention_feature import AttentionFeatureLoss
from utils.distillation.losses.attention_transfer import AttentionTransferLoss, UnifiedAttentionLoss
from utils.distillation.losses.body_edge import BodyEdgeLoss
from utils.distillation.losses.channel_wise import ChannelWiseLoss
from utils.distillation.losses.cross_entropy import CrossEntropyLoss
from utils.distillation.losses.cross_image import CrossImageLoss
from utils.distillation.losses.decoupled import DecoupledLoss
from utils.distillation.losses.dice import DiceCrossEntropyLoss, DiceFocalLoss, DiceLoss
from utils.distillation.losses.dice_semimetric import DiceSemimetricLoss
from utils.distillation.losses.dist import DistLoss
from utils.distillation.losses.hard_target import HardTargetLoss
from utils.distillation.losses.hint import HintLoss
from utils.distillation.losses.holistic import HolisticLoss
from utils.distillation.losses.pairwise import PairwiseLoss
from utils.distillation.losses.region_affinity import RegionAffinityLoss
from utils.distillation.losses.region_normalized import RegionNormalizedLoss
from utils.distillation.losses.soft_target import SoftTargetLoss, UnifiedSoftTargetLoss
from utils.distillation.losses.wavelet import WaveletLoss

TASK_LOSSES = {
    "cross_entropy": CrossEntropyLoss,
    "dice": DiceLoss,
    "dice_ce": DiceCrossEntropyLoss,
    "dice_focal": DiceFocalLoss,
}

DISTILLATION_LOSSES = {
    "attention_feature": AttentionFeatureLoss,
    "attention_transfer": AttentionTransferLoss,
    "body_edge": BodyEdgeLoss,
    "channel_wise": ChannelWiseLoss,
    "cross_image": CrossImageLoss,
    "decoupled": DecoupledLoss,
    "dice_semimetric": DiceSemimetricLoss,
    "dist": DistLoss,
    "hard_target": HardTargetLoss,
    "hint": HintLoss,
    "holistic": HolisticLoss,
    "pairwise": PairwiseLoss,
    "region_affinity": RegionAffinityLoss,
    "region_normalized": RegionNormalizedLoss,
    "soft_target": SoftTargetLoss,
    "unified_attention": UnifiedAttentionLoss,
    "unified_soft_target": UnifiedSoftTargetLoss,
    "wavelet": WaveletLoss,
}
