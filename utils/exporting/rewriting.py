"""The same function of the image in operations that ONNX Runtime knows and runs fast."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def rewrite(network: nn.Module) -> nn.Module:
    """A copy of `network` in eval mode that computes the same; its weights may have other names.

    - A PReLU with one slope is a LeakyReLU, which ONNX Runtime joins with the convolution before it and has in int8.
      ENet is twice as fast for it.
    - Max pooling that remembers where the maxima were, and unpooling, by comparisons of the four pixels of a window:
      ONNX's indices are serial code.
    - Adaptive pooling to a grid, as matrix products: ONNX has it for one image size only.
    """
    copy = deepcopy(network).eval()
    pairs = _remembers_maxima(copy)
    for module in list(copy.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.PReLU) and child.num_parameters == 1:
                setattr(module, name, nn.LeakyReLU(float(child.weight.detach())))
            elif isinstance(child, nn.MaxPool2d) and child.return_indices and pairs:
                setattr(module, name, MaxPoolWithChoice())
            elif isinstance(child, nn.MaxUnpool2d) and pairs:
                setattr(module, name, MaxUnpoolByChoice())
            elif isinstance(child, nn.AdaptiveAvgPool2d) and _is_grid(child.output_size):
                setattr(module, name, GridMeans(child.output_size))
    return copy


def _remembers_maxima(network: nn.Module) -> bool:
    """Whether all pooling that returns its indices, and all unpooling, is of windows of 2x2 side by side."""
    pools = [m for m in network.modules() if isinstance(m, nn.MaxPool2d) and m.return_indices]
    unpools = [m for m in network.modules() if isinstance(m, nn.MaxUnpool2d)]
    plain = all(m.ceil_mode is False and m.dilation == 1 for m in pools)
    windows = all(
        _pair(m.kernel_size) == (2, 2) == _pair(m.stride) and _pair(m.padding) == (0, 0) for m in [*pools, *unpools]
    )
    return bool(pools and unpools) and plain and windows


def _is_grid(size: int | tuple[int | None, int | None] | None) -> bool:
    """Whether it is a fixed number of cells other than one: a global mean exists in ONNX."""
    return size not in (1, (1, 1)) and all(isinstance(cells, int) for cells in _pair(size))


def _pair(value: Any) -> tuple[Any, Any]:
    return tuple(value) if isinstance(value, list | tuple) else (value, value)


class MaxPoolWithChoice(nn.Module):
    """The maximum of each 2x2 window, and which of the four it is: in order of rows, the first of equals, as torch."""

    def forward(self, feature: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """(B, C, H, W), H and W even -> (B, C, H/2, W/2), and four bool tensors of that size."""
        first, second, third, fourth = (feature[:, :, row::2, column::2] for row in (0, 1) for column in (0, 1))
        upper, lower = torch.maximum(first, second), torch.maximum(third, fourth)
        is_upper, upper_left, lower_left = upper >= lower, first >= second, third >= fourth
        choice = (is_upper & upper_left, is_upper & ~upper_left, ~is_upper & lower_left, ~is_upper & ~lower_left)
        return torch.maximum(upper, lower), choice


class MaxUnpoolByChoice(nn.Module):
    """Put each value where its window's maximum was, 0 elsewhere."""

    def forward(self, feature: Tensor, choice: tuple[Tensor, ...]) -> Tensor:
        """(B, C, H, W) -> (B, C, 2H, 2W)."""
        zero = torch.zeros((), dtype=feature.dtype, device=feature.device)
        quarters = torch.stack([torch.where(chosen, feature, zero) for chosen in choice], dim=2)
        return F.pixel_shuffle(quarters.flatten(1, 2), 2)


class GridMeans(nn.Module):
    """Means over a grid of cells, those of nn.AdaptiveAvgPool2d: neighbors may share a row of pixels."""

    def __init__(self, size: int | tuple[int, int]) -> None:
        super().__init__()
        self.size = _pair(size)

    def forward(self, feature: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, *size)."""
        rows, columns = (
            self._shares(cells, length, feature) for cells, length in zip(self.size, feature.shape[-2:], strict=True)
        )
        return rows @ feature @ columns.transpose(0, 1)

    def _shares(self, cells: int, length: int, feature: Tensor) -> Tensor:
        """(cells, length): what each pixel of a line counts in each cell's mean."""
        cell = torch.arange(cells, device=feature.device)[:, None]
        first = torch.div(cell * length, cells, rounding_mode="floor")
        last = torch.div((cell + 1) * length + cells - 1, cells, rounding_mode="floor")
        pixels = torch.arange(length, device=feature.device)[None]
        inside = ((pixels >= first) & (pixels < last)).to(feature.dtype)
        return inside / (last - first).to(feature.dtype)
