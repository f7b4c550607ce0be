"""Task losses `loss(logits, target)` and distillation losses `loss(student, teacher, target)` by name."""

from utils.losses.attention_feature import AttentionFeatureLoss
from utils.losses.attention_transfer import AttentionTransferLoss, UnifiedAttentionLoss
from utils.losses.body_edge import BodyEdgeLoss
from utils.losses.channel_wise import ChannelWiseLoss
from utils.losses.cross_entropy import CrossEntropyLoss
from utils.losses.cross_image import CrossImageLoss
from utils.losses.decoupled import DecoupledLoss
from utils.losses.dice import DiceCrossEntropyLoss, DiceFocalLoss, DiceLoss
from utils.losses.dice_semimetric import DiceSemimetricLoss
from utils.losses.dist import DistLoss
from utils.losses.hard_target import HardTargetLoss
from utils.losses.hint import HintLoss
from utils.losses.holistic import HolisticLoss
from utils.losses.pairwise import PairwiseLoss
from utils.losses.region_affinity import RegionAffinityLoss
from utils.losses.region_normalized import RegionNormalizedLoss
from utils.losses.soft_target import SoftTargetLoss, UnifiedSoftTargetLoss
from utils.losses.wavelet import WaveletLoss

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
