"""Projector: the 1x1 map from one feature's channels to another's, a part of the loss that trains with the student."""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from datasets.batches.moves import on_device

ProjectorKind = Literal["none", "learned", "mlp", "orthogonal", "random"]


class Projector(nn.Module):
    """Bring a feature to a given number of channels.

    - `none`: the channels must be equal already.
    - `learned`: a 1x1 convolution, where the channels differ.
    - `mlp`: two of them with a ReLU between, where the channels differ; the adapter of ISIC2024KD's TokenKD.
    - `orthogonal`: a linear map with orthonormal rows or columns and no bias, where the channels differ; the projector
      of VkD (Miles et al., CVPR 2024), without its normalization of the teacher.
    - `random`: a new, never trained 1x1 convolution at every call, also where the channels agree. This is what the
      published HLFD code does; mostly noise, kept for comparison. The draws come from a generator of their own whose
      position is saved in the state dict, so that a resumed run repeats them.

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
            self.register_buffer("next_seed", torch.randint(2**40, (), dtype=torch.int64))
            self._seed = int(self.next_seed)  # the same, known without asking a device
            self.register_load_state_dict_post_hook(Projector._know_seed)

    @property
    def draws_on_host(self) -> bool:
        """Whether every call draws numbers on the host, which a CUDA graph cannot repeat."""
        return self.kind == "random"

    def _know_seed(self, _incompatible: object) -> None:
        self._seed = int(self.next_seed)

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
        generator = torch.Generator().manual_seed(self._seed)
        self._seed += 1
        self.next_seed += 1
        bound = in_channels**-0.5  # the initialization of nn.Conv2d with a 1x1 kernel
        weight = torch.empty(out_channels, in_channels).uniform_(-bound, bound, generator=generator)
        bias = torch.empty(out_channels).uniform_(-bound, bound, generator=generator)
        return [(on_device(weight.numpy(), device), on_device(bias.numpy(), device))]

    def __repr__(self) -> str:
        """`none`, or the kind and the channels: `learned 16 -> 64`; the kind alone before the first call."""
        if self.channels is None:
            return self.kind
        if self.kind != "random" and self.channels[0] == self.channels[1]:
            return "none"
        return f"{self.kind} {self.channels[0]} -> {self.channels[1]}"
