"""What is minimized: a task loss alone, or a task loss with distillation terms."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from utils.taps import tap
from utils.terms import Task, Term


class Supervised(nn.Module):
    """The task loss of a network."""

    def __init__(self, network: nn.Module, task: Task) -> None:
        super().__init__()
        self.network = network
        self.task = task
        self.weights = {"task": task.weight}

    def forward(self, image: Tensor, target: Tensor) -> dict[str, Tensor]:
        """image (B, C, H, W), target (B, 1, H, W) or (B,) -> {"task": loss}, unweighted."""
        return {"task": self.task(tap(self.network, image, [self.task.on]), target)}


class Distiller(nn.Module):
    """The student's task loss and distillation terms against a frozen teacher, from one forward of each.

    `terms` maps a name (the TensorBoard tag) to a `Term`. The teacher is frozen here and nowhere else: no parameter
    requires a gradient, and it stays in eval mode whatever mode the objective is put in.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, task: Task, terms: dict[str, Term]) -> None:
        super().__init__()
        self.network = student
        self.teacher = teacher.requires_grad_(False).eval()
        self.task = task
        self.names = list(terms)
        self.terms = nn.ModuleList(terms.values())
        self.weights = {"task": task.weight} | {name: term.weight for name, term in terms.items()}
        self.student_taps = sorted({task.on, *(name for term in self.terms for name in term.student_taps)})
        self.teacher_taps = sorted({name for term in self.terms for name in term.teacher_taps})

    def train(self, mode: bool = True) -> Distiller:
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, image: Tensor, target: Tensor) -> dict[str, Tensor]:
        """image (B, C, H, W), target (B, 1, H, W) or (B,) -> {"task": loss, term: loss, ...}, unweighted."""
        with torch.no_grad():
            teacher = tap(self.teacher, image, self.teacher_taps)
        student = tap(self.network, image, self.student_taps)
        losses = {"task": self.task(student, target)}
        for name, term in zip(self.names, self.terms, strict=True):
            losses[name] = term(student, teacher, target)
        return losses
