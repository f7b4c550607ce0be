"""SqueezeNet 1.1 with torchvision's parameter names."""

from typing import ClassVar

import torch
from torch import nn

from .blocks import initialize
from .classifier_blocks import global_pool, linear_classifier, refuse_small
from .pretrained import load_pretrained


class Fire(nn.Module):
    """1x1 squeeze, then 1x1 and 3x3 expansions side by side, each followed by ReLU; `width` channels from either."""

    def __init__(self, in_channels: int, squeezed: int, width: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(in_channels, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, width, 1)
        self.expand3x3 = nn.Conv2d(squeezed, width, 3, padding=1)

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        feature = self.squeeze(feature).relu()
        return torch.cat([self.expand1x1(feature), self.expand3x3(feature)], dim=1).relu()


class SqueezeNet(nn.Module):
    """SqueezeNet 1.1 (Iandola et al., 2016), which has no normalization: warm up, and mind the learning rate.

    Published: 1x1 convolution to the classes on the whole map, ReLU, mean. Here: mean, then a linear layer. That is the
    same without the ReLU, which would make every logit at least 0 and leave a class without gradient once its logits
    are negative everywhere; it also saves a quarter of the MACs at 1000 classes. Dropout 0.5 acts on the vector.

    Taps: `encoder1..4` at 1/2, 1/4, 1/8, 1/16 with 64, 128, 256, 512 channels; `embedding` (B, 512).
    `pretrained`: torchvision's squeezenet1_1 file, its classifier ignored. Images of at least 18x18.
    """

    taps: ClassVar[dict[str, str]] = {
        "encoder1": "features.1",
        "encoder2": "features.4",
        "encoder3": "features.7",
        "encoder4": "features.12",
        "embedding": "pool",
    }

    def __init__(
        self, in_channels: int = 3, num_classes: int = 2, dropout: float = 0.5, pretrained: str | None = None
    ) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 64, 3, stride=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            Fire(64, 16, 64),
            Fire(128, 16, 64),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            Fire(128, 32, 128),
            Fire(256, 32, 128),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            Fire(256, 48, 192),
            Fire(384, 48, 192),
            Fire(384, 64, 256),
            Fire(512, 64, 256),
        )
        self.pool = global_pool()
        self.dropout = nn.Dropout(dropout)
        self.classifier = linear_classifier(512, num_classes)
        initialize(self.features)
        if pretrained is not None:
            encoder = nn.ModuleDict({"features": self.features})
            load_pretrained(encoder, pretrained, "features.0.weight", ignored=("classifier.",))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(B, in_channels, H, W) -> logits (B, num_classes)."""
        refuse_small(self, image, 18)
        return self.classifier(self.dropout(self.pool(self.features(image))))
