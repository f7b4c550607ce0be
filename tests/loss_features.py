"""Features and labels for the tests of losses."""

import torch


def features(channels: int = 4, size: int = 16, batch: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(seed))


def labels(size: int = 32, batch: int = 2) -> torch.Tensor:
    """Three classes in every image."""
    target = torch.zeros(batch, 1, size, size, dtype=torch.int64)
    target[:, :, 4:20, 6:24] = 1
    target[:, :, 8:13, 9:12] = 2
    return target


def row(*pixels: tuple[float, float]) -> torch.Tensor:
    """An image of one row, two channels: (1, 2, 1, len(pixels))."""
    return torch.tensor(pixels).T.reshape(1, 2, 1, -1)
