"""Pixel counts per case and class, fed slices in any order.

They are added up on the logits' device and divided once, when the scores are read. A mean of slices' Dice would weigh
a slice with one tumor pixel like one with a thousand.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class CaseCounts:
    """Integer counts per case and class, summed where they arise and brought to the CPU once, when read.

    Args:
        class_names: Names of the foreground classes 1, 2, ...
        columns: Names of the counts.
    """

    def __init__(self, class_names: Sequence[str], columns: Sequence[str]) -> None:
        if not class_names or isinstance(class_names, str):
            raise ValueError(f"class_names {class_names!r}: give the list of foreground classes, e.g. ['tumor']")
        self.class_names = list(class_names)
        self.columns = tuple(columns)
        self.cases: dict[str, Tensor] = {}

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

    def add(self, counts: Tensor, case: str | Sequence[str]) -> None:
        """Add the counts (B, classes, columns) of B slices to their cases."""
        cases = [case] * len(counts) if isinstance(case, str) else list(case)
        if len(cases) != len(counts):
            raise ValueError(f"{len(cases)} cases for {len(counts)} slices: give one name, or one for each slice")
        for name in dict.fromkeys(cases):
            mine = [index for index, other in enumerate(cases) if other == name]
            total = counts.sum(0) if len(mine) == len(cases) else counts[mine].sum(0)
            self.cases[name] = total if name not in self.cases else self.cases[name] + total.to(self.cases[name].device)

    def rows(self) -> list[tuple[str, str, dict[str, int]]]:
        """Case, class and its counts by column, sorted by case."""
        if not self.cases:
            raise ValueError("no slice was scored yet: call update first")
        names = sorted(self.cases)
        table = torch.stack([self.cases[name].cpu() for name in names]).tolist()
        return [
            (case, name, dict(zip(self.columns, values, strict=True)))
            for case, classes in zip(names, table, strict=True)
            for name, values in zip(self.class_names, classes, strict=True)
        ]

    def state(self) -> dict[str, Any]:
        """Class names, and per case the counts (classes, columns) as lists."""
        return {"class_names": self.class_names, "cases": {name: part.tolist() for name, part in self.cases.items()}}

    def merge(self, state: dict[str, Any]) -> None:
        """Add what `state` returned elsewhere. Raises ValueError when it counts other classes."""
        if state["class_names"] != self.class_names:
            raise ValueError(f"cannot merge scores of {state['class_names']} into those of {self.class_names}")
        for name, values in state["cases"].items():
            part = torch.tensor(values)
            self.cases[name] = part if name not in self.cases else self.cases[name] + part.to(self.cases[name].device)


def overlap(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels per slice (B,) int64 in both, in the prediction, in the target, of two (B, H, W) bool tensors."""
    # On the CPU bool sums to int32 14 times as fast as to int64; a slice has fewer than 2^31 pixels.
    return tuple(part.flatten(1).sum(1, dtype=torch.int32).long() for part in (prediction & target, prediction, target))


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
