"""ResNet encoders with torchvision's parameter names, so that its weight files load."""

from collections.abc import Sequence

import torch
from torch import nn

from .blocks import conv_norm

ENCODER_TAPS = {
    "encoder1": "encoder.relu",
    "encoder2": "encoder.layer1",
    "encoder3": "encoder.layer2",
    "encoder4": "encoder.layer3",
    "bottleneck": "encoder.layer4",
}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (ResNet-18, -34); `dilations`: up to and after the stride."""

    expansion = 1

    def __init__(
        self, in_channels: int, width: int, stride: int, dilations: tuple[int, int], downsample: nn.Module | None
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, dilations[0], dilations[0], bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, 1, dilations[1], dilations[1], bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = downsample

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        shortcut = feature if self.downsample is None else self.downsample(feature)
        feature = self.relu(self.bn1(self.conv1(feature)))
        return self.relu(self.bn2(self.conv2(feature)) + shortcut)


class Bottleneck(nn.Module):
    """1x1, 3x3 (strided), 1x1 convolutions and a shortcut (ResNet-50); `dilations`: up to and after the stride."""

    expansion = 4

    def __init__(
        self, in_channels: int, width: int, stride: int, dilations: tuple[int, int], downsample: nn.Module | None
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, dilations[0], dilations[0], bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        shortcut = feature if self.downsample is None else self.downsample(feature)
        feature = self.relu(self.bn1(self.conv1(feature)))
        feature = self.relu(self.bn2(self.conv2(feature)))
        return self.relu(self.bn3(self.conv3(feature)) + shortcut)


DEPTHS: dict[int, tuple[type[BasicBlock] | type[Bottleneck], Sequence[int]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
}


class ResNetEncoder(nn.Module):
    """ResNet without its pooling and classifier (He et al., CVPR 2016).

    `depth`: 18, 34 or 50. `output_stride` 16 or 8 replaces the last strides by dilation: the same parameters give the
    same features on a finer grid. `deep_stem` puts three 3x3 convolutions in place of the 7x7 one (PSPNet);
    torchvision has no weights for it. Raises ValueError for another depth or stride.
    """

    def __init__(self, depth: int, in_channels: int = 1, output_stride: int = 32, deep_stem: bool = False) -> None:
        super().__init__()
        if depth not in DEPTHS:
            raise ValueError(f"depth must be one of {sorted(DEPTHS)}, not {depth!r}")
        if output_stride not in (8, 16, 32):
            raise ValueError(f"output_stride must be 8, 16 or 32, not {output_stride!r}")
        block, repeats = DEPTHS[depth]
        stem_channels = 128 if deep_stem else 64
        kernel_size = 3 if deep_stem else 7
        self.channels = (64, *(width * block.expansion for width in (64, 128, 256, 512)))
        self.conv1 = nn.Conv2d(in_channels, 64, kernel_size, 2, kernel_size // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        deep = [conv_norm(64, 64), conv_norm(64, stem_channels)] if deep_stem else []
        self.stem = nn.Sequential(*deep)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = _stage(block, stem_channels, 64, repeats[0])
        self.layer2 = _stage(block, self.channels[1], 128, repeats[1], stride=2)
        stride, dilation = (2, 1) if output_stride >= 16 else (1, 2)
        self.layer3 = _stage(block, self.channels[2], 256, repeats[2], stride, 1, dilation)
        previous = dilation
        stride, dilation = (2, 1) if output_stride == 32 else (1, 2 * previous)
        self.layer4 = _stage(block, self.channels[3], 512, repeats[3], stride, previous, dilation)

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Five features: stem at 1/2, stages at 1/4, 1/8, 1/16, 1/32 (or at the output stride)."""
        features = [self.relu(self.bn1(self.conv1(image)))]
        feature = self.maxpool(self.stem(features[0]))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            feature = stage(feature)
            features.append(feature)
        return features


def _stage(
    block: type[BasicBlock] | type[Bottleneck],
    in_channels: int,
    width: int,
    repeats: int,
    stride: int = 1,
    first_dilation: int = 1,
    dilation: int = 1,
) -> nn.Sequential:
    out_channels = width * block.expansion
    downsample = None
    if stride != 1 or in_channels != out_channels:
        downsample = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
        )
    blocks = [block(in_channels, width, stride, (first_dilation, dilation), downsample)]
    blocks += [block(out_channels, width, 1, (dilation, dilation), None) for _ in range(repeats - 1)]
    return nn.Sequential(*blocks)
