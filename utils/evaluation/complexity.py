"""What a network costs: parameters, multiply-accumulates, milliseconds per image."""

import statistics
import time
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from utils.evaluation.shapes import only_shapes, shapes_of


@dataclass(frozen=True)
class Complexity:
    """`parameters`: learned numbers (buffers not counted); `macs`: multiply-accumulates for one image."""

    parameters: int
    macs: int


def complexity(network: nn.Module, in_channels: int, size: int | tuple[int, int]) -> Complexity:
    """Parameters, and MACs of one image (in_channels, size, size) or (in_channels, *size).

    MACs are half the FLOPs of torch's counter: convolutions, transposed convolutions and matrix products.
    Normalization, activation, pooling and interpolation count nothing, as is usual.
    Only shapes pass through a copy of the network, so neither size nor device matter.
    """
    height, width = (size, size) if isinstance(size, int) else size
    copy = shapes_of(network).eval()
    with only_shapes(), FlopCounterMode(display=False) as counter:
        copy(torch.empty(1, in_channels, height, width))
    return Complexity(sum(value.numel() for value in network.parameters()), counter.get_total_flops() // 2)


def latency(network: nn.Module, image_shape: tuple[int, int, int, int], repeats: int = 20, warmup: int = 3) -> float:
    """Milliseconds per image: median over `repeats` forwards of `image_shape` (B, C, H, W), divided by B.

    Measured where the network's parameters are, in eval mode (restored after), in fp32 unless the caller opens an
    autocast. It says nothing without the hardware and the thread count beside it.
    """
    device = next(network.parameters()).device
    image = torch.randn(image_shape, device=device, generator=torch.Generator(device).manual_seed(0))
    training = {module: module.training for module in network.modules()}
    network.eval()
    times = []
    try:
        with torch.inference_mode():
            for _ in range(warmup + repeats):
                _synchronize(device)
                start = time.perf_counter()
                network(image)
                _synchronize(device)
                times.append(time.perf_counter() - start)
    finally:
        for module, mode in training.items():
            module.training = mode
    return 1000 * statistics.median(times[warmup:]) / image_shape[0]


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
