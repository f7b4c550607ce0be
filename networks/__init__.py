"""Networks: `NETWORKS[name](in_channels=..., num_classes=2, ...)` maps an image to logits.

SEGMENTATION: image (B, in_channels, H, W) with H and W multiples of 32, logits (B, num_classes, H, W); one channel
by default. CLASSIFICATION: logits (B, num_classes); three channels. Each declares its taps, the features
one can distil, as `taps: {name: submodule path}`.
"""

from .deeplabv3plus import DeepLabV3Plus
from .densenet import DenseNet121
from .efficientnet import EfficientNetB0
from .enet import ENet
from .erfnet import ERFNet
from .espnet import ESPNet
from .hdkd import HDKD, HDKDStudent, HDKDTeacher
from .mobilenetv2 import MobileNetV2
from .pspnet import PSPNet
from .raunet import RAUNet
from .resnet18 import ResNet18
from .resnet_classifier import ResNet
from .squeezenet import SqueezeNet
from .swinv2 import SwinV2
from .timm_model import TimmModel
from .unet import UNet
from .unet_mobilenetv2 import UNetMobileNetV2
from .unet_resnet import UNetR18, UNetR50
from .unetplusplus import UNetPlusPlus
from .vit import ViTSmall

SEGMENTATION = {
    "deeplabv3+": DeepLabV3Plus,
    "enet": ENet,
    "erfnet": ERFNet,
    "espnet": ESPNet,
    "mobilenetv2": MobileNetV2,
    "pspnet": PSPNet,
    "raunet": RAUNet,
    "resnet18": ResNet18,
    "resnet_18": ResNet18,  # HLFD's spelling
    "unet": UNet,
    "unet++": UNetPlusPlus,
    "unet_mbnv2": UNetMobileNetV2,
    "unet_r18": UNetR18,
    "unet_r50": UNetR50,
}

CLASSIFICATION = {
    "densenet121": DenseNet121,
    "efficientnet_b0": EfficientNetB0,
    "resnet": ResNet,
    "squeezenet": SqueezeNet,
    "swinv2": SwinV2,
    "timm": TimmModel,  # any model of timm, if it is installed
    "vit_s16": ViTSmall,
    "teacher_model": HDKDTeacher,  # the three of HDKD, by their published names
    "student_model": HDKDStudent,
    "HDKD": HDKD,
}

NETWORKS = SEGMENTATION | CLASSIFICATION
