"""UNet++: the default teacher of HLFD, a zoo teacher of EMKD."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import nn

from .blocks import DoubleConv, initialize
from .unet import check_widths


class UNetPlusPlus(nn.Module):
    """UNet++ without deep supervision (Zhou et al., DLMIA 2018), in HLFD's and EMKD's layout.

    Node `i_j` sits at resolution 1 / 2^i and sees all nodes before it in its row and the upsampled `(i+1)_(j-1)`.
    The taps follow the true path: encoder `0_0, 1_0, 2_0, 3_0`, bottleneck `4_0`, decoder `3_1, 2_2, 1_3, 0_4`. HLFD's
    code gives `1_0, 2_0, 1_1, 3_0, 4_0` and `0_1, 0_2, 0_3, 1_3` out for these: neither an encoder nor a decoder.
    EMKD's low and high (128 channels at 1/2, 512 at 1/8) are `encoder2` and `encoder4` here.
    Not MONAI's `BasicUNetPlusPlus`: it transposes convolutions and returns a list (no table figure fits).
    `widths`: channels at full, 1/2, 1/4, 1/8 and 1/16 resolution. Raises ValueError unless there are five.
    `as_published` aligns the corners when it upsamples, as HLFD and EMKD do, so that published weights score as they
    did; the default does not.
    """

    taps: ClassVar[dict[str, str]] = {
        "encoder1": "nodes.0_0",
        "encoder2": "nodes.1_0",
        "encoder3": "nodes.2_0",
        "encoder4": "nodes.3_0",
        "bottleneck": "nodes.4_0",
        "decoder4": "nodes.3_1",
        "decoder3": "nodes.2_2",
        "decoder2": "nodes.1_3",
        "decoder1": "nodes.0_4",
    }

    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 2,
        widths: Sequence[int] = (64, 128, 256, 512, 1024),
        as_published: bool = False,
    ) -> None:
        super().__init__()
        check_widths(widths)
        self.pool = nn.MaxPool2d(2)
        self.up = nn.Upsample(scale_factor=2.0, mode="bilinear", align_corners=as_published)
        self.nodes = nn.ModuleDict()
        for row in range(5):
            self.nodes[f"{row}_0"] = DoubleConv(widths[row - 1] if row else in_channels, widths[row])
        for column in range(1, 5):
            for row in range(5 - column):
                self.nodes[f"{row}_{column}"] = DoubleConv(column * widths[row] + widths[row + 1], widths[row])
        self.head = nn.Conv2d(widths[0], num_classes, 1)
        initialize(self)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(B, in_channels, H, W) -> logits (B, num_classes, H, W)."""
        rows = [[self.nodes["0_0"](image)]]
        for row in range(1, 5):
            rows.append([self.nodes[f"{row}_0"](self.pool(rows[-1][0]))])
        for column in range(1, 5):
            for row in range(5 - column):
                below = self.up(rows[row + 1][column - 1])
                rows[row].append(self.nodes[f"{row}_{column}"](torch.cat([*rows[row], below], dim=1)))
        return self.head(rows[0][-1])
