"""The task loss and distillation terms (a loss, the taps that it reads, its weight), and how a recipe names them."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from utils.distillation.losses import DISTILLATION_LOSSES
from utils.recipe.registry import build

OWN = "self/"  # before a tap on the teacher's side: the student's own


class Task(nn.Module):
    """The task loss, the student's tap it reads (`logits`, or one of several heads) and its weight."""

    def __init__(self, loss: nn.Module, on: str = "logits", weight: float = 1.0) -> None:
        super().__init__()
        if weight <= 0:
            raise ValueError(f"task_weight must be positive, got {weight}")
        self.loss = loss
        self.on = on
        self.weight = weight

    def forward(self, student: dict[str, Tensor], target: Tensor) -> Tensor:
        """The unweighted loss of the student's features by tap name."""
        return self.loss(student[self.on], target)


class Term(nn.Module):
    """A distillation loss, the taps it compares and its weight.

    `student` and `teacher` are a tap name each, or a list of names for losses that take several features. `self/TAP` in
    the teacher's place is the student's own tap: self-distillation.
    """

    def __init__(self, loss: nn.Module, student: str | list[str], teacher: str | list[str], weight: float) -> None:
        super().__init__()
        if not isinstance(weight, int | float) or weight <= 0:
            raise ValueError(
                f"the weight of a term must be a positive number, got {weight!r}; leave the term out to switch it off"
            )
        self.loss = loss
        self.student = student
        self.teacher = teacher
        self.weight = float(weight)
        # a loss that can do without the target says so by its default
        self.reads_target = inspect.signature(loss.forward).parameters["target"].default is inspect.Parameter.empty

    @property
    def student_taps(self) -> list[str]:
        return _as_list(self.student)

    @property
    def teacher_taps(self) -> list[str]:
        return _as_list(self.teacher)

    def forward(self, student: dict[str, Tensor], teacher: dict[str, Tensor], target: Tensor) -> Tensor:
        """The unweighted loss of student and teacher features, both by tap name; `self/TAP` is among the teacher's."""
        return self.loss(_pick(student, self.student), _pick(teacher, self.teacher), target)


def _pick(features: dict[str, Tensor], names: str | list[str]) -> Tensor | list[Tensor]:
    return features[names] if isinstance(names, str) else [features[name] for name in names]


def _as_list(names: str | list[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def asks_teacher(sections: Sequence[dict[str, Any]]) -> bool:
    """Whether any entry of the recipe's list names a tap of the teacher, not of the student itself."""
    return any(not name.startswith(OWN) for section in sections for name in _as_list(section["teacher"]))


def scaled(sections: Sequence[dict[str, Any]], factor: float) -> list[dict[str, Any]]:
    """The recipe's list with every weight times `factor`."""
    return [section | {"weight": section["weight"] * factor} for section in sections]


def read_terms(sections: Sequence[dict[str, Any]], **given: Any) -> dict[str, Term]:
    """Terms by name from the recipe's list; `given` (num_classes) reaches the losses that take it.

    Raises ValueError naming the wrong entry.
    """
    terms = []
    for number, section in enumerate(sections, 1):
        what = f"distillation[{number}]"
        missing = sorted({"name", "student", "teacher", "weight"} - section.keys())
        if missing:
            raise ValueError(f"{what}: has no {', '.join(missing)}; a term is {{name, student, teacher, weight, ...}}")
        places = {key: section[key] for key in ("student", "teacher", "weight")}
        arguments = {key: value for key, value in section.items() if key not in places}
        terms.append((section["name"], Term(build(DISTILLATION_LOSSES, arguments, what, **given), **places)))
    return name_terms(terms)


def name_terms(terms: Sequence[tuple[str, Term]]) -> dict[str, Term]:
    """Names each (loss name, term): `<loss>/<student tap>`, and the teacher's tap too where that is not unique."""
    plain = [f"{loss}/{'+'.join(term.student_taps)}" for loss, term in terms]
    names = [
        name if plain.count(name) == 1 else f"{name}_from_{'+'.join(term.teacher_taps)}"
        for name, (_, term) in zip(plain, terms, strict=True)
    ]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"distillation: the term {', '.join(twice)} is given twice; add its weights up in one term")
    return dict(zip(names, (term for _, term in terms), strict=True))
