"""What is done alike to a torch tensor, on whatever device, and to a numpy array, for which torch is not imported."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

Array = Any  # np.ndarray or torch.Tensor: torch cannot be named where it may be missing


def module_of(values: Array) -> ModuleType:
    """numpy or torch: whose functions take these values. The two share most names, and the names of arguments."""
    return np if isinstance(values, np.ndarray) else sys.modules["torch"]


def on_host(values: Array) -> np.ndarray:
    """The values as a numpy array."""
    return values if isinstance(values, np.ndarray) else values.cpu().numpy()


def taken(values: Array, index: np.ndarray, axis: int) -> Array:
    """A copy of these places along an axis."""
    if isinstance(values, np.ndarray):
        return values.take(index, axis)
    return values.index_select(axis, module_of(values).from_numpy(index).to(values.device))


def mirrored(values: Array, axes: Sequence[int]) -> Array:
    """A copy that is mirrored along the axes; the values themselves where there are none."""
    if not axes:
        return values
    return np.ascontiguousarray(np.flip(values, axes)) if isinstance(values, np.ndarray) else values.flip(axes)


def softmax(logits: Array) -> Array:
    """Probabilities of the classes of logits (B, K, ...)."""
    if not isinstance(logits, np.ndarray):
        return logits.softmax(1)
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    return shares


def class_numbers(scores: Array) -> Array:
    """Class of the highest score, the lower one where two are equal: (B, K, H, W) -> (B, H, W) uint8.

    Written as comparisons: on one CPU core torch's argmax over the classes takes 10 to 80 times as long.
    """
    module = module_of(scores)
    best = scores[:, 0]
    numbers = module.zeros_like(best, dtype=module.uint8)
    for number in range(1, scores.shape[1]):
        if number > 1:
            best = module.maximum(best, scores[:, number - 1])
        higher = (scores[:, number] > best).view(module.uint8)
        higher *= number
        numbers = module.maximum(numbers, higher)  # it is above all before it
    return numbers
