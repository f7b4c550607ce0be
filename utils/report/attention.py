"""Where a network looks: Grad-CAM of its deepest feature map."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from utils.distillation.taps import submodule_paths, tap

DEEPEST = "bottleneck"
SIDE = 4  # cells of a map at least, where there is a choice: with fewer the place cannot be seen


class RegionScore(nn.Module):
    """The mean logit of each class over the pixels predicted as it: (B, C, H, W) -> (B, K).

    The mean of a class that is predicted nowhere is over the whole slice. Logits (B, K) stay as they are.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        logits = self.network(image)
        if logits.ndim == 2:
            return logits
        classes = logits.shape[1]
        region = torch.nn.functional.one_hot(logits.argmax(1), classes).movedim(-1, 1).to(logits)
        region = torch.where(region.sum((2, 3), keepdim=True) > 0, region, torch.ones_like(region))
        return (logits * region).sum((2, 3)) / region.sum((2, 3))


def deepest_tap(network: nn.Module, image: Tensor) -> str:
    """The tap `bottleneck` where it is a map of 4x4 or more; else the smallest such map, else the largest there is.

    Raises ValueError where no tap is a map.
    """
    taps = getattr(network, "taps", {})
    with torch.no_grad():
        features = tap(network, image, taps)
    sides = {
        name: min(feature.shape[2:])
        for name, feature in features.items()
        if name in taps and isinstance(feature, Tensor) and feature.ndim == 4 and min(feature.shape[2:]) > 1
    }
    if not sides:
        raise ValueError(f"{type(network).__name__}: has no tap that is a map, so no attention to show")
    large = {name: side for name, side in sides.items() if side >= SIDE}
    if DEEPEST in large:
        return DEEPEST
    return min(large, key=lambda name: large[name]) if large else max(sides, key=lambda name: sides[name])


def attention_maps(network: nn.Module, image: Tensor, classes: Sequence[int]) -> NDArray[np.float32]:
    """Grad-CAM (Selvaraju et al. 2017, MONAI's) of some classes for one image (C, H, W): (len(classes), H, W) in 0..1.

    MONAI's own scaling turns the map upside down (1 where there is least); here 1 is the most of this map.
    Raises ValueError where the network has no feature map.
    """
    from monai.visualize import GradCAM

    for module in network.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # it would overwrite what the hooks keep
    name = deepest_tap(network, image[None])
    path = submodule_paths(network, [name])[name]
    score = RegionScore(network).eval()  # MONAI puts it back as it was after each map: in training mode, if it was so
    gradcam = GradCAM(score, target_layers=f"network.{path}", postprocessing=_relative)
    maps = [np.asarray(gradcam(image[None], class_idx=number))[0, 0] for number in classes]
    return np.stack(maps).astype(np.float32)


def _relative(attention: Tensor) -> Tensor:
    attention = attention.detach()
    return attention / attention.amax().clamp_min(1e-12)
