"""Fifty steps of a distillation, captured or not, and a stand-in for a CUDA graph."""

import torch
from lightning_fabric import Fabric
from tiny_runs import Tiny

from utils.distillation.losses import TASK_LOSSES
from utils.distillation.objective import Distiller
from utils.distillation.terms import Task, read_terms
from utils.experiment.teacher import trial
from utils.recipe.schema import Training
from utils.training.optimization import Schedule, make_optimizer
from utils.training.step import CapturedStep, make_step

SETTINGS = Training(graph="never", batch_size=4, clip_norm=1.0, warmup_epochs=1, epochs=5)
TERMS = [
    {"name": "soft_target", "student": "logits", "teacher": "logits", "weight": 1.0},
    {"name": "hint", "student": "encoder2", "teacher": "encoder2", "weight": 0.5, "projector": "learned"},
    {"name": "region_affinity", "student": "encoder1", "teacher": "encoder1", "weight": 0.9},
]


class Tape:
    """Repeats work as a CUDA graph does, by doing it again; recording does nothing."""

    count = 0

    def warm_up(self, work) -> None:
        work()

    def capture(self, work) -> None:
        self.work = work

    def replay(self) -> None:
        Tape.count += 1
        self.work()


def losses_of_50_steps(fabric: Fabric, new_graph=None) -> torch.Tensor:
    """(50, terms): dropout, batch statistics, a learned projector and a rate that changes, with a graph or without."""
    torch.manual_seed(0)
    objective = Distiller(
        Tiny(dropout=0.2), Task(TASK_LOSSES["dice_focal"]()), Tiny(width=6), read_terms(TERMS, num_classes=2)
    )
    image = fabric.to_device(torch.randn(50, 4, 1, 32, 32))
    target = (image > 1).long()
    fabric.to_device(objective)
    trial(objective, image[0], target[0])
    optimizer = make_optimizer(objective.parameters(), SETTINGS)
    schedule = Schedule(optimizer, SETTINGS, steps_per_epoch=10)
    _, _, step = make_step(fabric, objective.train(), optimizer, SETTINGS)
    if new_graph is not None:
        step = CapturedStep(step, optimizer, new_graph)
    losses = []
    for images, targets in zip(image, target, strict=True):
        losses.append(step(images, targets))
        schedule.step()
    return torch.stack(losses).cpu()
