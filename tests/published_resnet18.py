"""EMKD's ResNet-18 as its code saves it."""

from functools import cache

import torch
from torch import Tensor

from networks import NETWORKS


def resnet18_as_published(classes: int = 2, seed: int = 0) -> tuple[dict[str, Tensor], torch.nn.Module]:
    """EMKD's state dict of ResNet-18, with torchvision's names and three channels, and the network that it was of.

    The tensors and the network are made once and only to be read; the dict is the caller's.
    """
    network = _network(classes, seed)
    renamed = ((key.removeprefix("encoder."), value) for key, value in network.state_dict().items())
    return {key.replace("head.", "last_conv."): value for key, value in renamed}, network


@cache
def _network(classes: int, seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    return NETWORKS["resnet18"](in_channels=3, num_classes=classes, as_published=True).eval()
