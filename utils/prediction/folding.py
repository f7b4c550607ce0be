"""Batch normalization folded into the convolutions before it: fewer operations, the same answers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

TOLERANCE = 1e-4  # of the largest logit, as for exported files


@torch.no_grad()
def fold(network: nn.Module, image: Tensor) -> nn.Module:
    """A network that answers as `network` does, up to rounding; `network` itself where there is nothing to fold.

    A normalization is folded where its input is what a convolution returned and both run once. What else may read that
    convolution's output cannot be seen, so the result is compared with the network on `image` (1, C, H, W), and not
    used where the two differ. Convolutions that are folded, and what held them, are changed in place.
    """
    pairs, wanted = _pairs(network, image)
    if not pairs:
        return network
    places = {child: (parent, name) for parent in network.modules() for name, child in parent.named_children()}
    former = []
    for convolution, normalization in pairs:
        folded = (fuse_conv_bn_eval(convolution, normalization), nn.Identity())
        for module, replacement in zip((convolution, normalization), folded, strict=True):
            parent, name = places[module]
            setattr(parent, name, replacement)
            former.append((parent, name, module))
    if not (network(image) - wanted).abs().max() <= TOLERANCE * wanted.abs().max():
        for parent, name, module in former:
            setattr(parent, name, module)
    return network


def _pairs(network: nn.Module, image: Tensor) -> tuple[list[tuple[nn.Conv2d, nn.BatchNorm2d]], Tensor]:
    """Convolutions and the normalizations that read them, as they run on an image; and the network's answer."""
    outputs: list[tuple[nn.Conv2d, Tensor]] = []
    inputs: list[tuple[nn.BatchNorm2d, Tensor]] = []
    hooks = []
    for module in network.modules():
        if type(module) is nn.Conv2d:
            hooks.append(module.register_forward_hook(lambda each, _, output: outputs.append((each, output))))
        elif type(module) is nn.BatchNorm2d and module.track_running_stats:
            hooks.append(module.register_forward_hook(lambda each, given, _: inputs.append((each, given[0]))))
    try:
        answer = network(image)
    finally:
        for hook in hooks:
            hook.remove()
    by_output = {id(output): convolution for convolution, output in outputs}
    once = [[each for each, _ in seen] for seen in (outputs, inputs)]
    return [
        (by_output[id(given)], normalization)
        for normalization, given in inputs
        if id(given) in by_output and once[1].count(normalization) == 1 and once[0].count(by_output[id(given)]) == 1
    ], answer
