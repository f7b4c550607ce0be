"""Which class a network gives each pixel."""

import torch
from torch import Tensor


def class_numbers(scores: Tensor) -> Tensor:
    """Class of the highest score, the lower one where two are equal: (B, K, H, W) -> (B, H, W) uint8.

    Written as comparisons: on one CPU core torch's argmax over the classes takes 10 to 80 times as long.
    """
    best = scores[:, 0]
    numbers = torch.zeros(best.shape, dtype=torch.uint8, device=best.device)
    for number in range(1, scores.shape[1]):
        if number > 1:
            best = torch.maximum(best, scores[:, number - 1])
        higher = (scores[:, number] > best).view(torch.uint8)
        numbers = torch.maximum(numbers, higher.mul_(number))  # it is above all before it
    return numbers
