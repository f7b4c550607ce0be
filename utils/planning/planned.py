"""What a plan holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.planning.budget import Budget
from utils.planning.choices import Choice, kept_slices
from utils.planning.fingerprint import Fingerprint
from utils.planning.memory import Forecast


@dataclass(frozen=True)
class Plan:
    """What was planned.

    Args:
        choices: By the recipe's key.
        command: SliceMaker's, where the store that the recipes name is not there.
        forecasts: Of the teacher's and of the student's training.
    """

    fingerprint: Fingerprint
    root: Path
    choices: dict[str, Choice]
    command: str | None
    forecasts: dict[str, Forecast]
    recipes: dict[str, dict[str, Any]]
    budget: Budget | None

    def minutes(self, role: str) -> float:
        """How long a training takes on this machine."""
        batch, epochs = (self.choices[f"training.{key}"].value for key in ("batch_size", "epochs"))
        kept = kept_slices(self.fingerprint, self.choices["data.thin_background"].value)
        return self.forecasts[role].minutes(batch, kept, sum(self.fingerprint.slices("val")), epochs)
