"""Fills soft maps with what a teacher says of a store's cases: checked, resumed, shared out, one case at a time."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from datasets.files import alone_in, describe, keep_apart
from datasets.findings import listed
from datasets.fingerprints import digest
from datasets.slices.shards import hold_store, read_shard
from datasets.slices.soft_maps import MapsWriter
from utils.command import say, with_bar
from utils.teaching.store import Store, StoreCase, read_store
from utils.teaching.teacher import Teacher, Wish
from utils.training.checkpoints import sha256
from utils.workers import explain, run

VERSION = 1  # of what fills the maps
MOST = 1.01  # to which the classes of a pixel may sum up, by rounding


@dataclass(frozen=True)
class Task:
    """One case of a wish, for whichever process takes it."""

    wish: Wish
    output: Path
    case: str
    command: str


@dataclass(frozen=True)
class Outcome:
    """What became of a case: its problem in one line, if it has one."""

    case: str
    problem: str | None = None


def open_teacher(wish: Wish, store: Store) -> Teacher:
    """The teacher that a wish names. Raises ValueError where it cannot, or must not, teach this store."""
    if wish.kind == "checkpoint":
        from utils.teaching.checkpoint import CheckpointTeacher

        return CheckpointTeacher(wish, store)
    if wish.kind == "maps":
        from utils.teaching.left_maps import LeftMaps

        return LeftMaps(wish, store)
    if wish.kind == "onnx":
        from utils.teaching.onnx_teacher import OnnxTeacher

        return OnnxTeacher(wish, store)
    from utils.teaching.nnunet import NnUNetTeacher

    return NnUNetTeacher(wish, store)


@lru_cache(maxsize=1)
def _open(wish: Wish) -> tuple[Teacher, Store]:
    """The teacher of this process, and its cases."""
    store = read_store(wish.data, wish.splits)
    return open_teacher(wish, store), store


@lru_cache(maxsize=1)
def _writing(wish: Wish, output: Path, command: str) -> tuple[Teacher, MapsWriter, dict[str, StoreCase]]:
    """The teacher of this process, what writes its answers without looking for what is missing, the cases by name."""
    teacher, store = _open(wish)
    return teacher, _writer(teacher, store, output, command, []), {case.name: case for case in store.cases}


def _writer(teacher: Teacher, store: Store, output: Path, command: str, cases: Sequence[str]) -> MapsWriter:
    made_by = {"command": command, "version": VERSION, "teachers": list(teacher.teachers)}

    def source_of(case: str) -> str | None:
        files = teacher.sources.get(case)
        return digest(*map(sha256, files)) if files else None

    return MapsWriter(output, store.root, teacher.classes, made_by, teacher.license, teacher.patients, cases, source_of)


def make_maps(task: Task) -> Outcome:
    """Answer a case and write its maps; what is wrong with it comes back as its problem."""
    teacher, writer, cases = _writing(task.wish, task.output, task.command)
    try:
        classes, teachers = teacher.answer(cases[task.case])
        writer.write_classes(task.case, _apart(classes), teachers)
    except ValueError as error:
        return Outcome(task.case, str(error))
    except OSError as error:
        return Outcome(task.case, describe(error, task.output))
    return Outcome(task.case)


def _apart(classes: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Probabilities of classes as they come. Raises ValueError behind the last where they overlap."""
    total: np.ndarray | float = 0.0
    for each in classes:
        total = total + each
        yield each
    if (most := np.max(total)) > MOST:
        raise ValueError(f"its classes sum up to {most:.2f} at a pixel: of classes that overlap keep --only")


def teach(wish: Wish, output: Path, shard: str, jobs: int, scheduler: str | None) -> int:
    """Make what is missing of a store's maps, and return the exit status: 1 where a case could not be answered."""
    started = time.monotonic()
    index, count = read_shard(shard)
    keep_apart(output, [wish.data, *(path for path in wish.paths if path.is_dir())])
    command = shlex.join(["python", *sys.argv])
    with _held(output, index, count):
        _open.cache_clear()
        _writing.cache_clear()
        teacher, store = _open(wish)
        writer = _writer(teacher, store, output.absolute(), command, teacher.cases)
        for note in teacher.notes:
            print(note)
        names, missing = list(teacher.cases), set(writer.missing)
        mine = [name for name in names[index::count] if name in missing]
        _announce(teacher, writer, names, mine, output)
        tasks = [Task(wish, output.absolute(), name, command) for name in mine]
        outcomes = run(make_maps, tasks, _failed, min(jobs, max(1, len(mine))), scheduler)
        bad = 0
        for outcome in with_bar(outcomes, len(mine), "case", "teaching"):
            if outcome.problem:
                bad += 1
                say(f"{outcome.case}: {outcome.problem}")
    took = time.monotonic() - started
    kept = len(names[index::count]) - len(mine)
    print(f"{len(mine) - bad} cases made now, {kept} kept, {bad} bad, in {took:.1f} s: {output}")
    return 1 if bad else 0


def _held(output: Path, index: int, count: int) -> AbstractContextManager[None]:
    return alone_in(output) if count == 1 else hold_store(output, index, count)


def _announce(teacher: Teacher, writer: MapsWriter, names: Sequence[str], mine: Sequence[str], output: Path) -> None:
    """What is about to happen: which classes are taught, to how many cases, and the room that their maps take."""
    size = sum(map(writer.nbytes, mine))
    print(f"classes: {listed(teacher.classes, 12)}")
    print(f"{len(mine)} of {len(names)} cases to make, {size / 1e6:.1f} MB in {output}", flush=True)


def _failed(task: Task, error: Exception) -> Outcome:
    return Outcome(task.case, ": ".join(explain(error)))
