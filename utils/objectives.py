"""What is minimized: a task loss alone, or a task loss with distillation terms."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from utils.taps import tap


class Term(nn.Module):
    """A distillation loss, the taps it compares and its weight.

    `student` and `teacher` are a tap name each, or a list of names for losses that take several features.
    """

    def __init__(self, loss: nn.Module, student: str | list[str], teacher: str | list[str], weight: float) -> None:
        super().__init__()
        if weight <= 0:
            raise ValueError(
                f"the weight of a term must be positive, got {weight}; leave the term out to switch it off"
            )
        self.loss = loss
        self.student = student
        self.teacher = teacher
        self.weight = float(weight)

    def forward(self, student: dict[str, Tensor], teacher: dict[str, Tensor], target: Tensor) -> Tensor:
        """The unweighted loss of student and teacher features, both by tap name."""
        return self.loss(_pick(student, self.student), _pick(teacher, self.teacher), target)


def _pick(features: dict[str, Tensor], names: str | list[str]) -> Tensor | list[Tensor]:
    return features[names] if isinstance(names, str) else [features[name] for name in names]


def _as_list(names: str | list[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


class Supervised(nn.Module):
    """The task loss of a network's logits."""

    def __init__(self, network: nn.Module, task_loss: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.task_loss = task_loss
        self.weights = {"task": 1.0}

    def forward(self, image: Tensor, target: Tensor) -> dict[str, Tensor]:
        """image (B, C, H, W), target (B, 1, H, W) or (B,) -> {"task": loss}."""
        return {"task": self.task_loss(self.network(image), target)}


class Distiller(nn.Module):
    """The student's task loss and distillation terms against a frozen teacher, from one forward of each.

    `terms` maps a name (the TensorBoard tag) to a `Term`. The teacher is frozen here and nowhere else: no parameter
    requires a gradient, and it stays in eval mode whatever mode the objective is put in.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, task_loss: nn.Module, terms: dict[str, Term]) -> None:
        super().__init__()
        self.network = student
        self.teacher = teacher.requires_grad_(False).eval()
        self.task_loss = task_loss
        self.names = list(terms)
        self.terms = nn.ModuleList(terms.values())
        self.weights = {"task": 1.0} | {name: term.weight for name, term in terms.items()}
        self.student_taps = sorted({name for term in self.terms for name in _as_list(term.student)})
        self.teacher_taps = sorted({name for term in self.terms for name in _as_list(term.teacher)})

    def train(self, mode: bool = True) -> Distiller:
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, image: Tensor, target: Tensor) -> dict[str, Tensor]:
        """image (B, C, H, W), target (B, 1, H, W) or (B,) -> {"task": loss, term: loss, ...}, unweighted."""
        with torch.no_grad():
            teacher = tap(self.teacher, image, self.teacher_taps)
        student = tap(self.network, image, self.student_taps)
        losses = {"task": self.task_loss(student["logits"], target)}
        for name, term in zip(self.names, self.terms, strict=True):
            losses[name] = term(student, teacher, target)
        return losses


def name_terms(terms: Sequence[tuple[str, Term]]) -> dict[str, Term]:
    """Names each (loss name, term): `<loss>/<student tap>`, and the teacher's tap too where that is not unique."""
    plain = [f"{loss}/{'+'.join(_as_list(term.student))}" for loss, term in terms]
    names = [
        name if plain.count(name) == 1 else f"{name}_from_{'+'.join(_as_list(term.teacher))}"
        for name, (_, term) in zip(plain, terms, strict=True)
    ]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"distillation: the term {', '.join(twice)} is given twice; add its weights up in one term")
    return dict(zip(names, (term for _, term in terms), strict=True))
