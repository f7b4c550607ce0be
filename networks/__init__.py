"""Segmentation networks: `NETWORKS[name](in_channels=1, num_classes=2, ...)` maps an image to logits.

Image (B, in_channels, H, W) with H and W multiples of 32, logits (B, num_classes, H, W). Each declares its taps, the
features one can distil, as `taps: {name: submodule path}`.
"""

from .deeplabv3plus import DeepLabV3Plus
from .enet import ENet
from .erfnet import ERFNet
from .espnet import ESPNet
from .mobilenetv2 import MobileNetV2
from .pspnet import PSPNet
from .raunet import RAUNet
from .resnet18 import ResNet18
from .unet import UNet
from .unet_mobilenetv2 import UNetMobileNetV2
from .unet_resnet import UNetR18, UNetR50
from .unetplusplus import UNetPlusPlus

NETWORKS = {
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
