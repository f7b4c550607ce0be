"""What training minimizes: a network's task loss and, with a teacher or without, distillation terms."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from datasets.slices.neighbors import middle
from utils.distillation.taps import tap
from utils.distillation.terms import OWN, Task, Term
from utils.training.order import labeled_of


class Distiller(nn.Module):
    """A network's task loss and its distillation terms, from one forward of the student and one of the teacher.

    Without terms this is plain supervised training.

    Args:
        student: The network that learns; it is kept as `.network`, which is evaluated and saved.
        task: The supervised loss; None where no label is seen, and the terms alone are learned from.
        teacher: It is frozen here and nowhere else: no parameter requires a gradient, and it stays in eval mode. It is
            no part of this module (DistributedDataParallel need not know it), but moves with it to a device. None where
            every term learns from the student's own taps (`self/TAP`), which reach the loss without a gradient, or
            where the teacher is always known (see `knowing`).
        terms: Maps a name (the TensorBoard tag) to a term.
        partly_labeled: The second half of every batch has no labels (its target is -1). It takes no part in the task
            loss and in terms that read the target; the other terms learn from it.
        channels: How many of the image's channels the student takes, those in the middle; None: all.
        teacher_channels: The same of the teacher.
        known: The tap of which the teacher's answers are always known.

    Raises ValueError when terms read a teacher's taps and there is none.
    """

    def __init__(
        self,
        student: nn.Module,
        task: Task | None,
        teacher: nn.Module | None = None,
        terms: Mapping[str, Term] | None = None,
        partly_labeled: bool = False,
        channels: int | None = None,
        teacher_channels: int | None = None,
        known: str | None = None,
    ) -> None:
        super().__init__()
        terms = terms or {}
        self.partly_labeled, self.answers = partly_labeled, {}
        self.channels, self.teacher_channels = channels, teacher_channels
        self.network = student
        frozen = None if teacher is None else teacher.requires_grad_(False).eval()
        object.__setattr__(self, "teacher", frozen)  # past nn.Module, which would make it a part
        self.task = task
        self.names = list(terms)
        self.terms = nn.ModuleList(terms.values())
        asked = {name for term in self.terms for name in term.teacher_taps}
        self.own_taps = sorted(name.removeprefix(OWN) for name in asked if name.startswith(OWN))
        self.teacher_taps = sorted(name for name in asked if not name.startswith(OWN))
        if teacher is None and (unknown := [name for name in self.teacher_taps if name != known]):
            raise ValueError(f"teacher: none given, but the terms read its {', '.join(unknown)}")
        learning = (name for term in self.terms for name in term.student_taps)
        self.student_taps = sorted({*([] if task is None else [task.on]), *learning, *self.own_taps})

    @property
    def weights(self) -> dict[str, float]:
        """What the loop multiplies each loss with; the task loss and each term own their weight."""
        of_task = {} if self.task is None else {"task": self.task.weight}
        return of_task | {name: term.weight for name, term in zip(self.names, self.terms, strict=True)}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Distiller:
        """What `to`, `cuda` and the like do, for the teacher as well."""
        if self.teacher is not None:
            self.teacher._apply(fn, recurse)
        return super()._apply(fn, recurse)

    @contextmanager
    def knowing(self, answers: dict[str, Tensor]) -> Iterator[None]:
        """Within it the teacher's answers (B, ...) to the image are these, by tap; where there are none it is asked."""
        before, self.answers = self.answers, answers
        try:
            yield
        finally:
            self.answers = before

    @torch.no_grad()
    def ask(self, image: Tensor, taps: Sequence[str]) -> dict[str, Tensor]:
        """The teacher's features of image (B, C, H, W) by tap."""
        return tap(self.teacher, middle(image, self.teacher_channels), taps)

    def features(self, image: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Features of image (B, C, H, W) by tap: the student's, and those that terms compare with, without gradient."""
        teacher = {}
        if self.teacher_taps:
            teacher = self.answers or self.ask(image, self.teacher_taps)
        student = tap(self.network, middle(image, self.channels), self.student_taps)
        return student, teacher | {OWN + name: student[name].detach() for name in self.own_taps}

    def forward(self, image: Tensor, target: Tensor) -> dict[str, Tensor]:
        """image (B, C, H, W), target (B, 1, H, W) or (B,) -> {"task": loss, term: loss, ...}, unweighted."""
        student, teacher = self.features(image)
        losses, task = {}, self.task
        if task is not None:
            losses["task"] = of_labeled(task, target, student) if self.partly_labeled else task(student, target)
        for name, term in zip(self.names, self.terms, strict=True):
            if self.partly_labeled and term.reads_target:
                losses[name] = of_labeled(term, target, student, teacher)
            else:
                losses[name] = term(student, teacher, target)
        return losses


def answers_in(batch: Mapping[str, Any]) -> dict[str, Tensor]:
    """The teacher's answers by tap that a batch carries: the logits of soft maps, or none."""
    return {"logits": batch["teacher"]} if "teacher" in batch else {}


def of_labeled(loss: nn.Module, target: Tensor, *features: dict[str, Tensor]) -> Tensor:
    """The loss over the labeled images of a batch, which come first; how many there are its size says."""
    count = labeled_of(len(target))
    return loss(*({name: feature[:count] for name, feature in each.items()} for each in features), target[:count])
