"""Convolution blocks that several networks share, and their initialization."""

import torch
from torch import nn

DECODER_TAPS = {"decoder4": "decoder4", "decoder3": "decoder3", "decoder2": "decoder2", "decoder1": "decoder1"}


def conv_norm(
    in_channels: int,
    out_channels: int,
    kernel_size: int = 3,
    stride: int = 1,
    *,
    dilation: int = 1,
    groups: int = 1,
    activation: type[nn.Module] | None = nn.ReLU,
) -> nn.Sequential:
    """Convolution without bias, batch normalization, activation if there is one; "same" padding for odd kernels."""
    padding = dilation * (kernel_size // 2)
    convolution = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias=False)
    return nn.Sequential(
        convolution, nn.BatchNorm2d(out_channels), *([activation(inplace=True)] if activation is not None else [])
    )


class DoubleConv(nn.Sequential):
    """Two 3x3 convolutions with batch normalization and ReLU: the block of U-Net and UNet++."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 3, padding=1),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )


class UpBlock(nn.Module):
    """U-Net decoder block: double the size (nearest, then 3x3 convolution), append the skip, `DoubleConv`."""

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int) -> None:
        super().__init__()
        self.up = nn.Sequential(
            nn.Upsample(scale_factor=2.0),
            nn.Conv2d(in_channels, out_channels, 3, padding=1),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )
        self.fuse = DoubleConv(skip_channels + out_channels, out_channels)

    def forward(self, feature: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        return self.fuse(torch.cat([skip, self.up(feature)], dim=1))


def repeats(in_channels: int, as_published: bool) -> int:
    """How often a network repeats its image along the channels: 3 for one channel where it is as published, else 1."""
    return 3 if as_published and in_channels == 1 else 1


def repeated(image: torch.Tensor, times: int) -> torch.Tensor:
    """(B, C, H, W) -> (B, times * C, H, W)."""
    return image if times == 1 else image.repeat(1, times, 1, 1)


def initialize(network: nn.Module) -> None:
    """Kaiming-normal weights (fan-in), zero biases, unit batch normalization, in place.

    Fan-in, not torchvision's fan-out: fan-out would give a 2-class head weights of unit variance and a loss of
    hundreds at the first step.
    """
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
