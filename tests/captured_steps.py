"""Fifty steps of a distillation, captured or not, and a stand-in for a CUDA graph."""

import torch
from lightning_fabric import Fabric
from tiny_runs import Tiny

from utils.distillation.losses import TASK_LOSSES
from utils.distillation.objective import Distiller
from utils.distillation.terms import Task, read_terms
from utils.experiment.teacher import trial
from utils.recipe.schema import Training
from utils.training import loop
from utils.training.optimization import Schedule, make_optimizer
from utils.training.step import CapturedStep, Step, make_step

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


def make(fabric: Fabric, graph: str = "never", new_graph=None) -> tuple[Step | CapturedStep, Schedule]:
    """A step with dropout, batch statistics, a learned projector and a rate that changes; its images are 4x1x32x32."""
    torch.manual_seed(0)
    objective = Distiller(
        Tiny(dropout=0.2), Task(TASK_LOSSES["dice_focal"]()), Tiny(width=6), read_terms(TERMS, num_classes=2)
    )
    settings = Training(graph=graph, batch_size=4, clip_norm=1.0, warmup_epochs=1, epochs=5)
    fabric.to_device(objective)
    trial(objective, *(fabric.to_device(part) for part in (torch.zeros(4, 1, 32, 32), torch.ones(4, 1, 32, 32).long())))
    optimizer = make_optimizer(objective.parameters(), settings)
    schedule = Schedule(optimizer, settings, steps_per_epoch=10)
    _, _, step = make_step(fabric, objective.train(), optimizer, settings)
    return (step if new_graph is None else CapturedStep(step, optimizer, new_graph)), schedule


def losses_of_50_steps(fabric: Fabric, new_graph=None) -> torch.Tensor:
    """(50, terms), with a graph or without."""
    step, schedule = make(fabric, new_graph=new_graph)
    image, losses = fabric.to_device(torch.randn(50, 4, 1, 32, 32)), []
    for images in image:
        losses.append(step(images, (images > 1).long()))
        schedule.step()
    return torch.stack(losses).cpu()


def interrupt_at_step(number: int, monkeypatch) -> None:
    """Ctrl-C before a training's step of this number, once."""
    calls, once = [], loop.train_step

    def interrupted(job, state, batch):
        calls.append(None)
        if len(calls) == number:
            raise KeyboardInterrupt
        return once(job, state, batch)

    monkeypatch.setattr(loop, "train_step", interrupted)
