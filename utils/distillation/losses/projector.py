"""Projector: the 1x1 map from one feature's channels to another's, a part of the loss that trains with the student."""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

ProjectorKind = Literal["none", "learned", "mlp", "orthogonal", "random"]


class Projector(nn.Module):
    """Bring a feature to a given number of channels.

    - `none`: the channels must be equal already.
    - `learned`: a 1x1 convolution, where the channels differ.
    - `mlp`: two of them with a ReLU between, where the channels differ; the adapter of ISIC2024KD's TokenKD.
    - `orthogonal`: a linear map with orthonormal rows or columns and no bias, where the channels differ; the projector
      of VkD (Miles et al., CVPR 2024), without its normalization of the teacher.
    - `random`: a new, never trained 1x1 convolution at every call, also where the channels agree. This is what the
      published HLFD code does; mostly noise, kept for comparison. The device's own generator draws it, whose state a
      run saves, so that a resumed one repeats the draws.

    `learned`, `mlp` and `orthogonal` are created at the first call, when the channels are known: call the loss once
    before building the optimizer or loading a state dict.
    """

    def __init__(self, kind: ProjectorKind) -> None:
        super().__init__()
        if kind not in get_args(ProjectorKind):
            raise ValueError(f"projector {kind!r} is unknown: choose one of {', '.join(get_args(ProjectorKind))}")
        self.kind = kind
        self.channels: tuple[int, int] | None = None
        self.layer: nn.Module | None = None
        if kind == "random":
            self.register_load_state_dict_pre_hook(_without_seed)

    def forward(self, feature: Tensor, out_channels: int) -> Tensor:
        """feature (B, C, ...), a map, tokens or a vector, to `out_channels` channels, in fp32 where it is projected."""
        in_channels, size = feature.shape[1], feature.shape[2:]
        if self.channels is None:
            self._build(in_channels, out_channels, feature.device)
        if self.kind != "random" and in_channels == out_channels:
            return feature
        pixels = feature if feature.ndim == 4 else feature.reshape(len(feature), in_channels, -1, 1)
        with torch.autocast(feature.device.type, enabled=False):
            pixels = pixels.float()
            for number, (weight, bias) in enumerate(self._layers_of_call(in_channels, out_channels, feature.device)):
                pixels = F.conv2d(pixels.relu() if number else pixels, weight[:, :, None, None], bias)
        return pixels if feature.ndim == 4 else pixels.reshape(len(feature), out_channels, *size)

    def _build(self, in_channels: int, out_channels: int, device: torch.device) -> None:
        if self.kind == "none" and in_channels != out_channels:
            raise ValueError(
                f"the features have {in_channels} and {out_channels} channels and the projector is 'none': "
                "give this term `projector: learned` (or orthogonal), or tap features with equal channels"
            )
        self.channels = (in_channels, out_channels)
        if in_channels == out_channels:
            return
        with torch.inference_mode(False):  # the first call may be a dry run; what it creates must be trainable
            if self.kind == "learned":
                self.layer = nn.Linear(in_channels, out_channels).to(device)
            elif self.kind == "mlp":
                layers = nn.Linear(in_channels, out_channels), nn.Linear(out_channels, out_channels)
                self.layer = nn.ModuleList(layers).to(device)
            elif self.kind == "orthogonal":
                self.layer = parametrizations.orthogonal(nn.Linear(in_channels, out_channels, bias=False)).to(device)

    def _layers_of_call(
        self, in_channels: int, out_channels: int, device: torch.device
    ) -> list[tuple[Tensor, Tensor | None]]:
        """Weight and bias of each 1x1 convolution."""
        if self.layer is not None:
            layers = self.layer if self.kind == "mlp" else [self.layer]
            return [(layer.weight, layer.bias) for layer in layers]
        bound = in_channels**-0.5  # the initialization of nn.Conv2d with a 1x1 kernel
        weight = torch.empty(out_channels, in_channels, device=device).uniform_(-bound, bound)
        return [(weight, torch.empty(out_channels, device=device).uniform_(-bound, bound))]

    def __repr__(self) -> str:
        """`none`, or the kind and the channels: `learned 16 -> 64`; the kind alone before the first call."""
        if self.channels is None:
            return self.kind
        if self.kind != "random" and self.channels[0] == self.channels[1]:
            return "none"
        return f"{self.kind} {self.channels[0]} -> {self.channels[1]}"


def _without_seed(_module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Earlier runs saved the position of a generator that the projector had for itself."""
    state.pop(f"{prefix}next_seed", None)
