"""Pixel counts per case and class, fed slices in any order.

They are taken on the logits' device, wait there, and are added up on the CPU when the scores are read. A mean of
slices' Dice would weigh a slice with one tumor pixel like one with a thousand.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor


class CaseCounts:
    """Integer counts per case and class. Taking them never waits for the device; reading them does, once.

    Args:
        class_names: Names of the foreground classes 1, 2, ...
        columns: Names of the counts.
        of_slices: Makes the counts (N, classes, columns) of N slices from their pixels (N, classes) in both masks, in
            the prediction, and in the target.
    """

    def __init__(
        self, class_names: Sequence[str], columns: Sequence[str], of_slices: Callable[[Tensor, Tensor, Tensor], Tensor]
    ) -> None:
        if not class_names or isinstance(class_names, str):
            raise ValueError(f"class_names {class_names!r}: give the list of foreground classes, e.g. ['tumor']")
        self.class_names = list(class_names)
        self.columns = tuple(columns)
        self._of_slices = of_slices
        self._waiting: list[tuple[list[str], Tensor]] = []  # pixels (B, classes, 3) of slices
        self._cases: dict[str, Tensor] = {}  # (classes, columns), on the CPU

    @property
    def cases(self) -> dict[str, Tensor]:
        """The counts (classes, columns) of every case so far."""
        waiting, self._waiting = self._waiting, []
        if waiting:
            names = [name for cases, _ in waiting for name in cases]
            pixels = torch.cat([part for _, part in waiting]).cpu().long()
            places = {name: place for place, name in enumerate(dict.fromkeys(names))}
            sums = torch.zeros(len(places), len(self.class_names), len(self.columns), dtype=torch.int64)
            sums.index_add_(0, torch.tensor([places[name] for name in names]), self._of_slices(*pixels.unbind(-1)))
            for name, part in zip(places, sums, strict=True):
                self._add(name, part)
        return self._cases

    def checked(self, logits: Tensor, target: Tensor) -> Tensor:
        """The target as (B, H, W) on the logits' device. Raises ValueError for shapes that do not belong together."""
        classes = len(self.class_names) + 1
        batch, _, *size = logits.shape
        if logits.ndim != 4 or logits.shape[1] != classes or tuple(target.shape) != (batch, 1, *size):
            raise ValueError(
                f"logits {tuple(logits.shape)} and target {tuple(target.shape)} do not fit: they must be "
                f"(B, {classes}, H, W) and (B, 1, H, W) for background and {', '.join(self.class_names)}"
            )
        return target[:, 0].to(logits.device)

    def add(self, predictions: Iterable[Tensor], target: Tensor, case: str | Sequence[str]) -> None:
        """Count B slices: for each class what is predicted (B, H, W) bool; target (B, H, W); one case, or each's."""
        cases = [case] * len(target) if isinstance(case, str) else list(case)
        if len(cases) != len(target):
            raise ValueError(f"{len(cases)} cases for {len(target)} slices: give one name, or one for each slice")
        classes = (_pixels(prediction, target == number) for number, prediction in enumerate(predictions, 1))
        self._waiting.append((cases, torch.stack(list(classes), 1)))

    def rows(self) -> list[tuple[str, str, dict[str, int]]]:
        """Case, class and its counts by column, sorted by case."""
        if not self.cases:
            raise ValueError("no slice was scored yet: call update first")
        return [
            (case, name, dict(zip(self.columns, values, strict=True)))
            for case in sorted(self.cases)
            for name, values in zip(self.class_names, self.cases[case].tolist(), strict=True)
        ]

    def state(self) -> dict[str, Any]:
        """Class names, and per case the counts (classes, columns) as lists."""
        return {"class_names": self.class_names, "cases": {name: part.tolist() for name, part in self.cases.items()}}

    def merge(self, state: dict[str, Any]) -> None:
        """Add what `state` returned elsewhere. Raises ValueError when it counts other classes."""
        if state["class_names"] != self.class_names:
            raise ValueError(f"cannot merge scores of {state['class_names']} into those of {self.class_names}")
        for name, values in state["cases"].items():
            self._add(name, torch.tensor(values))

    def _add(self, case: str, counts: Tensor) -> None:
        self._cases[case] = self._cases[case] + counts if case in self._cases else counts


def _pixels(prediction: Tensor, target: Tensor) -> Tensor:
    """Pixels of each slice in both masks, in the prediction, in the target: (B, 3), of two (B, H, W) bool tensors."""
    # On the CPU bool sums to int32 14 times as fast as to int64; a slice has fewer than 2^31 pixels.
    masks = (prediction & target, prediction, target)
    return torch.stack([mask.flatten(1).sum(1, dtype=torch.int32) for mask in masks], -1)


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
