"""Slices that show nothing, such as air alone: a network answers each kind of them once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class BlankSlices:
    """Takes the slices of which every channel is constant out of batches of one size, and fills in their answer.

    The network is asked about each kind of them, by its constants, and not assumed to say background: it may see its
    padding. The last kind is remembered: a volume seldom has another.
    """

    def __init__(self) -> None:
        self._known: tuple[list[float], Tensor] | None = None

    def logits(self, image: Tensor, ask: Callable[[Tensor], Tensor]) -> Tensor:
        """Logits (B, K, H, W) of a batch (B, C, H', W'). ask: lets the network answer."""
        kinds = [_kind(each) for each in image]
        busy = [place for place, kind in enumerate(kinds) if kind is None]
        if len(busy) == len(kinds):
            return ask(image)
        rows = dict(zip(busy, ask(image[busy]), strict=True)) if busy else {}
        for place, kind in enumerate(kinds):
            if kind is not None:
                if self._known is None or self._known[0] != kind:
                    self._known = (kind, ask(image[place : place + 1])[0].clone())
                rows[place] = self._known[1]
        return torch.stack([rows[place] for place in range(len(kinds))])


def _kind(image: Tensor) -> list[float] | None:
    """The constants of a slice (C, H, W); None where a channel is not constant."""
    constants = image[:, :1, :1]
    middle = image[:, image.shape[1] // 2, None]  # tells for most slices
    if torch.equal(middle, constants.expand_as(middle)) and torch.equal(image, constants.expand_as(image)):
        return constants.flatten().tolist()
    return None
