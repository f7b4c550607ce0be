"""Every step's loss terms: their means, and the first one that is not finite."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor


class TermWatch:
    """Keeps each step's terms on the device and reads them a window at a time, so that steps need not wait.

    The total of every step is appended to `losses`. `window` holds the terms of earlier steps, as `checked` returned
    them.
    """

    def __init__(self, weights: dict[str, float], losses: list[float], window: Sequence[Sequence[float]] = ()) -> None:
        self.names = list(weights)
        self.weights = torch.tensor(list(weights.values()))
        self.window: list[Tensor] = [torch.tensor(terms) for terms in window]
        self.cases: list[tuple[int, list[str]]] = [(0, [])] * len(window)  # they were finite: nobody asks for them
        self.images = 0
        self.started = time.monotonic()
        self.losses = losses

    def add(self, losses: Tensor, images: int, step: int, cases: list[str]) -> None:
        """losses: (terms,), unweighted, in the order of the weights."""
        self.window.append(losses)
        self.cases.append((step, list(cases)))
        self.images += images

    def checked(self) -> list[list[float]]:
        """The terms of the steps since the last report. Raises ValueError as `report`."""
        return self._values().tolist()

    def report(self) -> dict[str, float]:
        """Means over the steps since the last report, raw and weighted; empties the window.

        Raises ValueError naming the first term that was not finite, its step and its cases.
        """
        values = self._values()
        mean = values.mean(0)
        weighted = mean * self.weights
        total = (values * self.weights).sum(1)
        self.losses += total.tolist()
        report = {"train/loss": float(total.mean())}
        report |= {f"terms/{name}": float(value) for name, value in zip(self.names, mean, strict=True)}
        report |= {f"weighted/{name}": float(value) for name, value in zip(self.names, weighted, strict=True)}
        now = time.monotonic()
        report["train/images_per_second"] = self.images / max(now - self.started, 1e-9)
        self.window, self.cases, self.images, self.started = [], [], 0, now
        return report

    def _values(self) -> Tensor:
        """The window's terms, (steps, terms), on the CPU; all are finite."""
        if not self.window:
            return torch.zeros(0, len(self.names))
        device = self.window[-1].device  # steps of an earlier session are on the CPU; one copy waits once
        values = torch.stack([terms.to(device) for terms in self.window]).cpu()
        finite = torch.isfinite(values)
        if not bool(finite.all()):
            row = int((~finite).any(1).nonzero()[0])
            names = [name for name, good in zip(self.names, finite[row].tolist(), strict=True) if not good]
            step, cases = self.cases[row]
            raise ValueError(
                f"not finite at step {step}: {', '.join(names)} (cases {', '.join(sorted(set(map(str, cases))))}); "
                "lower training.learning_rate or the term's weight, set training.clip_norm, or use training.precision "
                "32-true"
            )
        return values
