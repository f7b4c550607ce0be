"""EfficientNet-B0 with torchvision's parameter names."""

from typing import ClassVar

import torch
from torch import nn

from .blocks import conv_norm, initialize
from .classifier_blocks import drop_branch, global_pool, linear_classifier
from .pretrained import load_pretrained

# expansion, kernel, stride, output channels, blocks (the paper's table 1)
STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)


class SqueezeExcitation(nn.Module):
    """Channel gates from the mean of each channel, through a bottleneck of `squeezed` channels."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.activation = nn.SiLU(inplace=True)

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        mean = feature.mean(dim=(2, 3), keepdim=True)
        return feature * self.fc2(self.activation(self.fc1(mean))).sigmoid()


class MBConv(nn.Module):
    """1x1 expansion, depthwise convolution, squeeze and excitation, linear 1x1; a shortcut where the shape stays.

    `drop_probability`: chance that a sample skips the block's branch in training (stochastic depth).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        expansion: int,
        kernel_size: int,
        stride: int,
        drop_probability: float,
    ) -> None:
        super().__init__()
        width = in_channels * expansion
        self.shortcut = stride == 1 and in_channels == out_channels
        self.drop_probability = drop_probability
        layers = [conv_norm(in_channels, width, 1, activation=nn.SiLU)] if expansion != 1 else []
        layers += [
            conv_norm(width, width, kernel_size, stride, groups=width, activation=nn.SiLU),
            SqueezeExcitation(width, max(1, in_channels // 4)),
            conv_norm(width, out_channels, 1, activation=None),
        ]
        self.block = nn.Sequential(*layers)

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        branch = self.block(feature)
        return feature + drop_branch(branch, self.drop_probability, self.training) if self.shortcut else branch


class EfficientNetB0(nn.Module):
    """EfficientNet-B0 (Tan & Le, ICML 2019). Batch normalization with torch's momentum 0.1 and epsilon 1e-5.

    The paper's momentum 0.01 suits 350 epochs of ImageNet: in a short training the running statistics lag behind.
    `stochastic_depth` is the last block's drop probability, linear from 0 at the first.

    Taps: `encoder1..4` at 1/2, 1/4, 1/8, 1/16 with 16, 24, 40, 112 channels;
    `bottleneck` (1280 channels, half of encoder4's size); `embedding` (B, 1280).
    `pretrained`: torchvision's efficientnet_b0 file, its classifier ignored. Any image size; 32 and more make sense.
    """

    taps: ClassVar[dict[str, str]] = {
        "encoder1": "features.1",
        "encoder2": "features.2",
        "encoder3": "features.3",
        "encoder4": "features.5",
        "bottleneck": "features.8",
        "embedding": "pool",
    }

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 2,
        dropout: float = 0.2,
        stochastic_depth: float = 0.2,
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        features = [conv_norm(in_channels, 32, stride=2, activation=nn.SiLU)]
        channels = 32
        depth = sum(blocks for *_, blocks in STAGES)
        built = 0
        for expansion, kernel_size, stride, out_channels, blocks in STAGES:
            stage = []
            for _ in range(blocks):
                drop_probability = stochastic_depth * built / depth
                stage.append(MBConv(channels, out_channels, expansion, kernel_size, stride, drop_probability))
                channels, stride = out_channels, 1
                built += 1
            features.append(nn.Sequential(*stage))
        self.features = nn.Sequential(*features, conv_norm(channels, 1280, 1, activation=nn.SiLU))
        self.pool = global_pool()
        self.dropout = nn.Dropout(dropout)
        self.classifier = linear_classifier(1280, num_classes)
        initialize(self.features)
        if pretrained is not None:
            encoder = nn.ModuleDict({"features": self.features})
            load_pretrained(encoder, pretrained, "features.0.0.weight", ignored=("classifier.",))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(B, in_channels, H, W) -> logits (B, num_classes)."""
        return self.classifier(self.dropout(self.pool(self.features(image))))
