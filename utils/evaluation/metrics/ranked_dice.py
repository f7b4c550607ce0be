"""Dice of labels by RankSEG-RMA, beside the Dice of argmax labels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from utils.evaluation.metrics import VolumeDice
from utils.evaluation.metrics.ranking import rank_labels


class RankedDice:
    """Volume Dice where each slice's labels are those of the highest expected Dice, not the most probable ones.

    A decoding of the same probabilities (see `ranking.py`), slice by slice: training does not gain by it.

    Args:
        class_names: Names of the foreground classes 1, 2, ...
    """

    def __init__(self, class_names: Sequence[str]) -> None:
        self._dice = VolumeDice(class_names)

    def update(self, logits: Tensor, target: Tensor, case: str | Sequence[str]) -> None:
        """As `VolumeDice.update`."""
        probabilities = logits.float().softmax(1).clamp(0, 1).cpu().numpy()  # may exceed 1 by a rounding
        labels = torch.stack([torch.from_numpy(rank_labels(each)) for each in probabilities])
        chosen = torch.nn.functional.one_hot(labels.long(), logits.shape[1]).movedim(-1, 1)
        self._dice.update(chosen.to(logits.device, logits.dtype), target, case)

    def compute(self) -> dict[str, float]:
        """`ranked/dice`, the mean of the classes, and `ranked/dice/C` of each class C."""
        return {f"ranked/{name}": value for name, value in self._dice.compute().items() if name.startswith("dice")}

    def state(self) -> dict:
        """The counts as plain values, to be gathered over processes."""
        return self._dice.state()

    def merge(self, state: dict) -> None:
        """Add the `state()` of another process."""
        self._dice.merge(state)
