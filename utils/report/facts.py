"""What is known about a set of runs before the page is made: groups, scores, gains, costs, pictures, what is missing.

What cannot be made is noted, and the rest goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import torch

from datasets.files import describe
from utils.evaluation.complexity import Complexity, complexity
from utils.evaluation.complexity import latency as network_latency
from utils.prediction.latency import Timing
from utils.report import latency, learning, pictures
from utils.report.charts import Style, group_styles
from utils.report.exports import Export, read_exports
from utils.report.gains import Estimate, Gain, correct_gains, estimate, gain, scores_shown
from utils.report.learning import Charts
from utils.report.page import refuse_foreign
from utils.runs.data import open_split
from utils.runs.groups import Group, chosen_student, group_runs, teacher_folders
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
    warn: Callable[[str], None]
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
    learning: Charts | None = None
    terms: list[Charts] = field(default_factory=list)
    cases: list[pictures.Block] = field(default_factory=list)
    attention: list[pictures.Block] = field(default_factory=list)

    def note(self, line: str) -> None:
        line = " ".join(line.split())
        if line not in self.notes:
            self.notes.append(line)
            self.warn(line)

    def by_name(self, name: str | None) -> Group | None:
        return next((group for group in self.groups if group.name == name), None)

    @property
    def firsts(self) -> list[Gain]:
        """The gains in the first score, which is what conclusions are about."""
        return [gain for gain in self.gains if gain.score == self.names[0]]

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
            folders = teacher_folders(self.student.first)
            for group in teachers:
                if any(run.folder.resolve() in folders for run in group.runs):
                    return group
        return teachers[0] if teachers else None

    @property
    def compared(self) -> list[Group]:
        """Teacher, student alone and distilled: whose attention is shown side by side."""
        control = self.by_name(self.student.control) if self.student else None
        trio = [group for group in (self.teacher, control, self.student) if group is not None]
        return trio or self.groups[:3]


def gather(wanted: Wanted, warn: Callable[[str], None]) -> Report:
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
    report = Report(wanted, warn, groups, group_styles(groups), scores_shown(runs[0]), [])
    for line in (*notes, *repeated, *left_out, *_same_seeds(groups)):
        report.note(line)
    _measure(report)
    report.exports, notes = read_exports(wanted.exports, groups)
    for line in notes:
        report.note(line)
    if wanted.latency and not report.first.classifies:
        _time(report)
    _draw_curves(report)
    if wanted.cases:
        (_show_images if report.first.classifies else _show_cases)(report)
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
    names, timed, works = latency.timed_names(report.groups), {}, {}
    for group in report.groups:
        for score in report.names:
            report.estimates[group.name, score] = estimate(group, score)
        network = checkpoints.rebuild(group.first.checkpoint)
        channels, size = group.first.checkpoint["network"]["in_channels"], group.first.size
        kind = names[group.name], size
        if kind not in works:
            works[kind] = complexity(network, channels, size)
        report.works[group.name] = works[kind]
        if report.wanted.latency:
            if names[group.name] not in timed:
                timed[names[group.name]] = network_latency(network, (1, channels, size, size))
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
    candidates = latency.candidates_of(report.groups, report.exports)
    busy = latency.other_work()
    try:
        with latency.volume_of(student, student.first.split, wanted.data, wanted.volume) as (volume, what):
            for device in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
                able = [each for each in candidates if device == "cpu" or each.file.suffix != ".onnx"]
                report.timed[device], notes = latency.measure_all(able, volume, wanted.repeats, device)
                for line in notes:
                    report.note(line)
        if slices := [timing.slices for timed in report.timed.values() for timing in timed]:
            report.timed_what = f"{what}; {slices[0]} slices{busy}"
    except (ValueError, OSError) as error:
        report.note(f"nothing was timed: {error}")


def _draw_curves(report: Report) -> None:
    curves = {}
    for run in (run for group in report.groups for run in group.runs):
        try:
            curves[run.folder] = learning.read_curves(run.folder)
        except (ValueError, OSError) as error:
            report.note(f"{run.folder}: no learning curves: {error}")
    if curves:
        report.learning = learning.learning_charts(report.groups, curves, report.styles)
        report.terms = learning.term_charts(report.groups, curves)


def _show_cases(report: Report) -> None:
    """Slices of the worst, a median and the best case of the student, and the attention on them."""
    student, root = report.student or report.groups[-1], report.wanted.data
    split, names = student.first.split, student.first.class_names
    try:
        chosen = pictures.choose_cases(student.first, report.wanted.cases)
        shown = pictures.predict_shown(report.groups, chosen, split, root)
        report.cases = [pictures.case_block(each, report.groups, names) for each in shown]
    except (ValueError, OSError) as error:
        report.note(f"no pictures of cases: {error}")
        return
    try:
        report.attention = pictures.case_attention(shown, report.compared, names, split, root)
    except (ValueError, RuntimeError) as error:
        report.note(f"no attention maps: {error}")


def _show_images(report: Report) -> None:
    """Images with their answers, and the attention on some."""
    student = report.student or report.groups[-1]
    try:
        dataset = open_split(student.first.checkpoint, student.first.split, report.wanted.data)
        report.cases = pictures.answer_grids(report.groups, student, dataset)
        report.attention = pictures.image_attention(report.compared, dataset, 2 * report.wanted.cases)
    except (ValueError, OSError, RuntimeError) as error:
        report.note(f"no pictures of images: {error}")
