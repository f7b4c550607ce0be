"""Networks through which only shapes pass: what an image becomes is known without computing it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


def shapes_of(network: nn.Module) -> nn.Module:
    """A copy of the network whose parameters and buffers have shapes but no content: no weight is copied."""
    shapes: dict[int, torch.Tensor] = {}
    for value in network.parameters():
        shapes[id(value)] = nn.Parameter(value.detach().to("meta"), value.requires_grad)
    for value in network.buffers():
        shapes[id(value)] = value.to("meta")
    return deepcopy(network, shapes)


@contextmanager
def only_shapes() -> Iterator[None]:
    """Inside, new tensors have shapes but no content, and batch norm returns its input.

    Batch norm changes no shape, and without content torch takes longer over it than over all other layers together.
    """
    with torch.no_grad(), torch.device("meta"), _SkippedBatchNorm():
        yield


class _SkippedBatchNorm(TorchFunctionMode):
    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return args[0] if function is F.batch_norm else function(*args, **(kwargs or {}))
