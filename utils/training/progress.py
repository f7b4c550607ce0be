"""Where a run stands, how last.ckpt holds it, and how it is restored from there."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from lightning_fabric import Fabric
from torch import nn
from torch.optim import Optimizer

from utils.recipe.schema import Training
from utils.training import checkpoints
from utils.training.optimization import Schedule


@dataclass
class Progress:
    """Where a run stands.

    Args:
        epoch: Whole epochs that are done, their validation included.
        position: Steps done in the next epoch.
        best: The highest score so far; `best_epoch` is where it was reached, 0 before any validation.
        scores: Scores of the last validation; `cases` are its rows.
        losses: The total loss of each step since the epoch began.
        window: The terms of the steps that no report has averaged yet.
        logged: The scalars of the last step.
        signal: What ended the run early.
    """

    epoch: int = 0
    position: int = 0
    best: float = float("-inf")
    best_epoch: int = 0
    scores: dict[str, float] = field(default_factory=dict)
    cases: list[dict[str, Any]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    window: list[list[float]] = field(default_factory=list)
    logged: dict[str, float] = field(default_factory=dict)
    signal: int | None = None

    def is_done(self, settings: Training) -> bool:
        """Whether all epochs are through, or no score has been better for `patience` of them."""
        waits = self.best_epoch > 0 and settings.patience is not None and self.position == 0
        return self.epoch >= settings.epochs or (waits and self.epoch - self.best_epoch >= settings.patience)


def network_content(identity: dict[str, Any], network: nn.Module, progress: Progress) -> dict[str, Any]:
    """What both checkpoints hold: the network and all that is needed to rebuild and to judge it."""
    return identity | {
        "weights": network.state_dict(),
        "scores": {"scores": progress.scores, "cases": progress.cases},
        "epoch": progress.epoch,
    }


def training_content(
    progress: Progress, objective: nn.Module, optimizer: Optimizer, schedule: Schedule
) -> dict[str, Any]:
    """What last.ckpt holds beside that: all that is needed to go on."""
    return {
        "progress": asdict(progress) | {"signal": None},
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "terms": objective.terms.state_dict(),
    }


def restore(resumed: dict[str, Any], objective: nn.Module, optimizer: Optimizer, schedule: Schedule) -> Progress:
    """Puts everything back as last.ckpt has it, except what belongs to a process: see `restore_process`."""
    state = resumed["training"]
    objective.network.load_state_dict(resumed["weights"])
    objective.terms.load_state_dict(state["terms"])
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    return Progress(**state["progress"])


def restore_process(fabric: Fabric, state: dict[str, Any]) -> None:
    """Puts back random states and the gradient scaler. Raises ValueError for another number of processes."""
    if len(state["random"]) != fabric.world_size:
        raise ValueError(
            f"the run was stopped with {len(state['random'])} processes and cannot go on with {fabric.world_size}: "
            "random states are kept by process; start the same number"
        )
    checkpoints.restore_random_states(state["random"][fabric.global_rank])
    fabric.strategy.precision.load_state_dict(state["precision"])
