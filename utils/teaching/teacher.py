"""What is asked of a teacher, and what every teacher is: whatever answers a case of a store with probabilities."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from datasets.findings import listed
from utils.teaching.store import StoreCase


@dataclass(frozen=True)
class Wish:
    """A teacher as the command line asks for it; see scripts/TeachWith.py.

    kind: checkpoint, maps, onnx or nnunet. only: names of the classes whose maps are kept; none: all.
    """

    kind: str
    paths: tuple[Path, ...]
    data: Path
    splits: tuple[str, ...]
    only: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    weights: str = "mean"
    sidecar: Path | None = None
    seen: Path | None = None
    splits_final: Path | None = None
    folds: tuple[str, ...] = ()
    mirror: bool = True
    license: str | None = None
    allow_leak: bool = False
    device: str = "auto"
    batch_size: int | None = None


class Teacher(Protocol):
    """Answers cases of a store.

    classes: foreground, in the order of the answers. teachers: `kind`, `path`, `sha256`, `license` and `settings` of
    each network behind it. patients: those that each of these, by its number as text, was trained on and chosen by.
    cases: the names of those that it can answer. sources: the files that the answer to a case is read from, where it
    is. notes: lines to print before it starts.
    """

    classes: Sequence[str]
    teachers: Sequence[Mapping[str, Any]]
    license: str | None
    patients: Mapping[str, Mapping[str, Sequence[str]] | None]
    cases: Sequence[str]
    sources: Mapping[str, Sequence[Path]]
    notes: Sequence[str]

    def answer(self, case: StoreCase) -> tuple[Iterable[np.ndarray], Sequence[int]]:
        """Probabilities of the foreground classes on the stored grid, float32 (S, H, W) each, and who gave them.

        The classes come one after another: of a hundred not all fit into memory. Raises ValueError naming the file that
        cannot be used, at the latest at its class.
        """
        ...


def kept(classes: Sequence[str], only: Sequence[str], where: Path) -> list[int]:
    """The places among `classes` of those that are kept, in their order. Raises ValueError for an unknown name."""
    if len(set(classes)) < len(classes):
        raise ValueError(f"{where}: names a class twice ({listed(classes)}): give --classes, each with its own name")
    if unknown := [name for name in only if name not in classes]:
        raise ValueError(f"--only {unknown[0]}: {where} has the classes {listed(classes, 12)}")
    return [place for place, name in enumerate(classes) if not only or name in only]


def note_of_learned(cases: Sequence[StoreCase], train: Sequence[Collection[str]]) -> list[str]:
    """A note where all who teach have learned from a case. train: the patients that each has learned from."""
    learned = [case.name for case in cases if train and all(case.patient in each for each in train)]
    if not learned:
        return []
    return [f"{len(learned)} cases ({listed(learned)}) are answered by what learned from them, so better than new ones"]
