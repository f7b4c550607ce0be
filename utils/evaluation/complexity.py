"""What a network costs: parameters, multiply-accumulates, milliseconds per image."""

import statistics
import time
from dataclasses import dataclass

import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Complexity:
    """`parameters`: learned numbers (buffers not counted); `macs`: multiply-accumulates for one image."""

    parameters: int
    macs: int


class _FreeNormalization(TorchFunctionMode):
    """Passes batch normalization over: it counts nothing, and finding out its shapes takes as long as all the rest."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        return args[0] if function is functional.batch_norm else function(*args, **(kwargs or {}))


def complexity(network: nn.Module, in_channels: int, size: int | tuple[int, int]) -> Complexity:
    """Parameters, and MACs of one image (in_channels, size, size) or (in_channels, *size).

    MACs are half the FLOPs of torch's counter: convolutions, transposed convolutions and matrix products.
    Normalization, activation, pooling and interpolation count nothing, as is usual.
    Nothing is computed: parameters are replaced by shapes for the call, so neither size nor device matter, and the
    network is left as it was.
    """
    height, width = (size, size) if isinstance(size, int) else size
    shapes = {name: value.to("meta") for name, value in (*network.named_parameters(), *network.named_buffers())}
    training = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.no_grad(), torch.device("meta"), _FreeNormalization(), FlopCounterMode(display=False) as counter:
            functional_call(network, shapes, torch.empty(1, in_channels, height, width))
    finally:
        for module, mode in training.items():
            module.training = mode
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
