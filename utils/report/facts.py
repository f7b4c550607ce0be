"""What is known about a set of runs before the page is made: groups, scores, gains, costs, and what is missing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import torch

from datasets.files import describe
from utils.evaluation.complexity import Complexity, complexity, latency
from utils.prediction.latency import Timing
from utils.report import machine, timings
from utils.report.colors import Style, group_styles
from utils.report.exports import Export, read_exports
from utils.report.gains import Estimate, Gain, correct_gains, estimate, gain, score_names
from utils.report.page import refuse_foreign
from utils.runs.groups import Group, chosen_student, group_runs
from utils.runs.run import Run, of_one_dataset, once_each, read_run
from utils.training import checkpoints


@dataclass(frozen=True)
class Wanted:
    """What the page is asked to hold; `command`: what makes it again."""

    runs: Sequence[Path]
    output: Path
    exports: Sequence[Path]
    data: str | None
    volume: Path | None
    latency: bool
    repeats: int
    cases: int
    title: str | None
    command: Sequence[str]


@dataclass
class Report:
    """What is known once runs are read; `notes` grow while parts are made."""

    wanted: Wanted
    tell: Callable[[str], None]
    groups: list[Group]
    styles: dict[str, Style]
    names: list[str]
    notes: list[str]
    estimates: dict[tuple[str, str], Estimate] = field(default_factory=dict)
    gains: list[Gain] = field(default_factory=list)
    works: dict[str, Complexity] = field(default_factory=dict)
    milliseconds: dict[str, float] = field(default_factory=dict)
    timed: dict[str, list[Timing]] = field(default_factory=dict)
    timed_what: str = ""
    exports: list[Export] = field(default_factory=list)

    def note(self, line: str) -> None:
        line = " ".join(line.split())
        if line not in self.notes:
            self.notes.append(line)
            self.tell(line)

    def by_name(self, name: str | None) -> Group | None:
        return next((group for group in self.groups if group.name == name), None)

    @property
    def first(self) -> Run:
        """A run to ask for what all have in common."""
        return self.groups[0].first

    @property
    def tested(self) -> str:
        """How many cases the scores are over."""
        count = len({row["case"] for row in self.first.rows})
        return f"{count} {self.first.split} {'images' if self.first.classifies else 'cases'}"

    @property
    def student(self) -> Group | None:
        """The group that pictures are shown of: the distilled one that is best on val."""
        return chosen_student(self.groups)

    @property
    def teacher(self) -> Group | None:
        """The teacher of that student, else the first."""
        teachers = [group for group in self.groups if group.role == "teacher"]
        if self.student is not None:
            named = Path(self.student.first.recipe["teacher"])
            folder = (named.parent if named.suffix else named).resolve()
            for group in teachers:
                if any(run.folder.resolve() == folder for run in group.runs):
                    return group
        return teachers[0] if teachers else None

    @property
    def compared(self) -> list[Group]:
        """Teacher, student alone and distilled: whose attention is shown side by side."""
        control = self.by_name(self.student.control) if self.student else None
        trio = [group for group in (self.teacher, control, self.student) if group is not None]
        return trio or self.groups[:3]


def gather(wanted: Wanted, tell: Callable[[str], None]) -> Report:
    """Read and measure the runs. Raises ValueError where none can be read at all, or the page is somebody else's."""
    runs, notes = [], []
    for folder in dict.fromkeys(wanted.runs):
        try:
            run, lacks = read_run(folder)
        except ValueError as error:
            notes.append(str(error))
            continue
        except OSError as error:
            notes.append(describe(error, folder))
            continue
        runs.append(run)
        notes += lacks
    if not runs:
        raise ValueError("; ".join(notes))
    refuse_foreign(wanted.output)
    runs, repeated = once_each(runs)
    runs, left_out = of_one_dataset(runs)
    groups = group_runs(runs)
    report = Report(wanted, tell, groups, group_styles(groups), score_names(runs[0]), [])
    for line in (*notes, *repeated, *left_out, *_same_seeds(groups)):
        report.note(line)
    _measure(report)
    report.exports, notes = read_exports(wanted.exports, groups)
    for line in notes:
        report.note(line)
    if wanted.latency and not report.first.classifies:
        _time(report)
    return report


def _same_seeds(groups: Sequence[Group]) -> list[str]:
    """A line for each two runs of a group with one seed."""
    return [
        f"{group.name}: {run.folder} and {other.folder} have the same seed {run.seed}; both are counted"
        for group in groups
        for run, other in pairwise(group.runs)
        if run.seed == other.seed
    ]


def _measure(report: Report) -> None:
    """Scores and their intervals, gains, work and time of every group."""
    names, timed = timings.timed_names(report.groups), {}
    for group in report.groups:
        for score in report.names:
            report.estimates[group.name, score] = estimate(group, score)
        network = checkpoints.rebuild(group.first.checkpoint)
        channels, size = group.first.checkpoint["network"]["in_channels"], group.first.size
        report.works[group.name] = complexity(network, channels, size)
        if report.wanted.latency:
            if names[group.name] not in timed:
                timed[names[group.name]] = latency(network, (1, channels, size, size))
            report.milliseconds[group.name] = timed[names[group.name]]
    for group in report.groups:
        control = report.by_name(group.control)
        if group.role != "distilled":
            continue
        if control is None:
            report.note(f"{group.name}: no run of {group.first.network} trained alone is among these: no gain is given")
            continue
        for score in report.names:
            try:
                report.gains.append(gain(group, control, score))
            except ValueError as error:
                report.note(str(error))
    report.gains = correct_gains(report.gains)


def _time(report: Report) -> None:
    """Every network and exported file on one volume, on the CPU and, where there is one, the GPU."""
    wanted, student = report.wanted, report.student or report.groups[-1]
    candidates = timings.candidates_of(report.groups, report.exports)
    busy = machine.other_work()
    try:
        with timings.volume_of(student, student.first.split, wanted.data, wanted.volume) as (volume, what):
            for device in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
                able = [each for each in candidates if device == "cpu" or each.file.suffix != ".onnx"]
                report.timed[device], notes = timings.measure_all(able, volume, wanted.repeats, device)
                for line in notes:
                    report.note(line)
        if slices := [timing.slices for timed in report.timed.values() for timing in timed]:
            report.timed_what = f"{what}; {slices[0]} slices{busy}"
    except (ValueError, OSError) as error:
        report.note(f"nothing was timed: {error}")
