"""What a leaderboard consists of: a YAML file, and the runs it asks for."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from utils.recipe.methods import METHODS
from utils.recipe.registry import nearest
from utils.recipe.schema import ROOT

PLAIN = "plain"


@dataclass
class Calibration:
    """How the weight of each method is chosen: short runs, one for each share, and the best val score wins.

    Args:
        shares: what a method's terms together weigh early on, as a multiple of the task loss's gradient norm.
        flags: of these runs beside `Plan.flags`, e.g. fewer epochs.
        student: whose runs choose for all students; empty: each student's own.
        seed: of these runs; not among the leaderboard's, whose first weights nothing was chosen on.
    """

    shares: list[float] = field(default_factory=lambda: [0.3, 1.0, 3.0])
    flags: list[str] = field(default_factory=list)
    student: str = ""
    seed: int = 1000


@dataclass
class Plan:
    """A leaderboard: each student is trained alone and by each method, once a seed.

    Args:
        output: folder of all runs, the table and the page.
        student_config: recipe of the students: data, schedule, task loss, metric.
        students: network sections by name: {enet: {name: enet}, ...}.
        methods: files of configs/methods, or paths of such files.
        own_weights: those of `methods` that keep the weights their files give, e.g. published ones; not calibrated.
        teacher: its best.ckpt, or
        teacher_config: its recipe, from which it is trained first.
        teacher_flags: flags of that training.
        flags: flags of every student, e.g. [--training.epochs=4].
        student_flags: further flags of a student by its name.
        controls: further students without a teacher, by name, each with flags of its own: {tumor_labels_only:
            [--data.task=tumor]}. They have scores, and no gain.
        seeds: of the runs.
        calibration: how weights are chosen on val; null takes those of the method files.
        teacher_cache_gb: disk for the teacher's answers, shared by all runs; 0 asks the teacher each time.
    """

    output: str
    student_config: str
    students: dict[str, dict[str, Any]]
    methods: list[str]
    own_weights: list[str] = field(default_factory=list)
    teacher: str = ""
    teacher_config: str = ""
    teacher_flags: list[str] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)
    student_flags: dict[str, list[str]] = field(default_factory=dict)
    controls: dict[str, list[str]] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    calibration: Calibration | None = field(default_factory=Calibration)
    teacher_cache_gb: float = 0.0

    def __post_init__(self) -> None:
        if bool(self.teacher) == bool(self.teacher_config):
            raise ValueError("give either teacher (a best.ckpt) or teacher_config (a recipe to train it by)")
        if not self.students or not self.methods or not self.seeds:
            raise ValueError("students, methods and seeds must each name at least one")
        if len(set(self.seeds)) < len(self.seeds) or len(set(self.methods)) < len(self.methods):
            raise ValueError("seeds and methods must each be given once")
        for student in self.student_flags:
            if student not in self.students:
                raise ValueError(f"student_flags: {student} is not among the students{nearest(student, self.students)}")
        known = sorted(path.stem for path in METHODS.glob("*.yaml"))
        for method in self.methods:
            if not method_file(method).is_file():
                raise ValueError(f"method {method}: no such file in configs/methods{nearest(method, known)}")
        for method in self.own_weights:
            if method not in self.methods:
                raise ValueError(f"own_weights: {method} is not among the methods{nearest(method, self.methods)}")
        if taken := sorted({PLAIN, *map(name_of, self.methods)} & self.controls.keys()):
            raise ValueError(f"controls: {taken[0]} is the name of a method: choose another")
        if self.calibration is not None:
            if self.calibration.seed in self.seeds:
                raise ValueError(f"calibration.seed {self.calibration.seed} is one of the seeds: choose another")
            if self.calibration.student and self.calibration.student not in self.students:
                raise ValueError(
                    f"calibration.student: {self.calibration.student} is not among the students"
                    f"{nearest(self.calibration.student, self.students)}"
                )
            if not self.calibration.shares or min(self.calibration.shares) <= 0:
                raise ValueError("calibration.shares must be positive numbers")

    @property
    def folder(self) -> Path:
        return Path(self.output)

    @property
    def calibrated(self) -> list[str]:
        """The students whose runs choose shares."""
        if self.calibration is None:
            return []
        return [self.calibration.student] if self.calibration.student else list(self.students)

    @property
    def weighed(self) -> list[str]:
        """The methods whose share is chosen."""
        return [method for method in self.methods if method not in self.own_weights] if self.calibration else []

    @property
    def teacher_checkpoint(self) -> Path:
        return Path(self.teacher) if self.teacher else self.folder / "teacher/best.ckpt"


@dataclass(frozen=True)
class PlannedRun:
    """One training: its name, its folder, and the script, recipe files and flags that make it."""

    name: str
    folder: Path
    script: str
    configs: tuple[str, ...]
    flags: tuple[str, ...]

    @property
    def command(self) -> list[str]:
        named = [part for config in self.configs for part in ("--config", config)]
        return [sys.executable, str(ROOT / self.script), *named, *self.flags, f"--output={self.folder}"]


def read_plan(file: Path) -> Plan:
    """Read and check a plan. Raises ValueError with one line for whatever is wrong."""
    if not file.is_file():
        raise ValueError(f"{file}: no such file: give a plan, e.g. one of configs/leaderboards")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Plan)
    try:
        return Plan(**parser.instantiate(parser.parse_path(str(file))).as_dict())
    except Exception as error:
        raise ValueError(f"{file}: {' '.join(str(error).split())}") from None


def method_file(method: str) -> Path:
    return Path(method) if method.endswith(".yaml") else METHODS / f"{method}.yaml"


def teacher_runs(plan: Plan) -> list[PlannedRun]:
    """The teacher's training, if it is not given."""
    if plan.teacher:
        return []
    folder = plan.folder / "teacher"
    return [PlannedRun("teacher", folder, "train.py", (plan.teacher_config,), (*plan.teacher_flags, "--mode=both"))]


def plain_runs(plan: Plan) -> list[PlannedRun]:
    """Every student alone, and as each control, once a seed."""
    runs = []
    for student in plan.students:
        for control, further in {PLAIN: [], **plan.controls}.items():
            for seed in plan.seeds:
                folder = run_folder(plan, student, control, seed)
                flags = (*_student_flags(plan, student, seed), *further, "--mode=both")
                name = f"{student}/{control}/{seed}"
                runs.append(PlannedRun(name, folder, "train.py", (plan.student_config,), flags))
    return runs


def calibration_runs(plan: Plan) -> list[PlannedRun]:
    """Every calibrated student with every method and share, on the calibration's seed; they never read test."""
    runs = []
    for student in plan.calibrated:
        for method in plan.weighed:
            for share in plan.calibration.shares:
                folder = calibration_folder(plan, student, method, share)
                flags = [*_distillation_flags(plan, student, plan.calibration.seed), *plan.calibration.flags]
                flags += [f"--distillation_share={share:g}", "--mode=train"]
                name = f"{student}/{name_of(method)}/share {share:g}"
                runs.append(_distillation(plan, name, folder, method, flags))
    return runs


def method_runs(plan: Plan, shares: dict[tuple[str, str], float] | None = None) -> list[PlannedRun]:
    """Every student with every method, once a seed.

    shares: those that were chosen. A method that is weighed and has none yet is left out; without `shares` none is.
    """
    runs = []
    for student in plan.students:
        for method in plan.methods:
            share = (shares or {}).get((student, method))
            if shares is not None and method in plan.weighed and share is None:
                continue
            for seed in plan.seeds:
                folder = run_folder(plan, student, method, seed)
                flags = _distillation_flags(plan, student, seed)
                if share is not None:
                    flags.append(f"--distillation_share={share:g}")
                name = f"{student}/{name_of(method)}/{seed}"
                runs.append(_distillation(plan, name, folder, method, [*flags, "--mode=both"]))
    return runs


def name_of(method: str) -> str:
    return method_file(method).stem


def run_folder(plan: Plan, student: str, method: str, seed: int) -> Path:
    return plan.folder / student / name_of(method) / f"seed_{seed}"


def calibration_folder(plan: Plan, student: str, method: str, share: float) -> Path:
    return plan.folder / student / name_of(method) / f"share_{share:g}"


def _student_flags(plan: Plan, student: str, seed: int) -> list[str]:
    network = json.dumps(plan.students[student])
    return [f"--network={network}", f"--seed={seed}", *plan.flags, *plan.student_flags.get(student, ())]


def _distillation_flags(plan: Plan, student: str, seed: int) -> list[str]:
    flags = [*_student_flags(plan, student, seed), f"--teacher={plan.teacher_checkpoint}"]
    if plan.teacher_cache_gb:
        flags += [f"--teacher_cache={plan.folder / 'teacher_cache'}", f"--teacher_cache_gb={plan.teacher_cache_gb:g}"]
    return flags


def _distillation(plan: Plan, name: str, folder: Path, method: str, flags: Sequence[str]) -> PlannedRun:
    return PlannedRun(name, folder, "train_kd.py", (plan.student_config, str(method_file(method))), tuple(flags))
