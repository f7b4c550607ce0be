"""The title, the verdict in a sentence, and the key numbers beside it; all plain text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from utils.evaluation.statistics import NOTHING, UNDEFINED
from utils.report.exports import TIMED, TIMES
from utils.report.facts import Report
from utils.report.gains import Estimate, Gain
from utils.report.latency import precision_of, reference, timed_names
from utils.runs.groups import Group


def title(report: Report) -> str:
    """What was compared: methods, students, data."""
    distilled = [group for group in report.groups if group.role == "distilled"]
    place = Path(report.first.data)
    data = (place.parent.name if place.name == "slices" else place.stem).replace("_", " ")
    if not distilled:
        return f"{_listed(dict.fromkeys(group.first.network for group in report.groups))} on {data}"
    students = _listed(dict.fromkeys(group.first.network for group in distilled))
    methods = dict.fromkeys(group.name.removeprefix(f"{group.first.network} ").split(" (")[0] for group in distilled)
    how = "distilled" if list(methods) == ["distilled"] else f"distilled by {_listed(methods)}"
    if any(group.control for group in distilled):
        return f"{students} {how}, against the same network alone, on {data}"
    return f"{students} {how}, on {data}"


def headline(gains: Sequence[Gain], groups: Sequence[Group]) -> str:
    """What distillation did, of all distilled students together."""
    if all(group.role != "distilled" for group in groups):
        return "No distilled student is among these runs: nothing to conclude about distillation."
    if not gains:
        return "No distilled student can be compared with the same network trained alone: its run is missing."
    better, worse = (sum(gain.sign == sign for gain in gains) for sign in (1, -1))
    equal = len(gains) - better - worse
    if len(gains) == 1:
        return {
            1: "Distillation helped: the distilled student is better than the same network trained alone.",
            -1: "Distillation hurt: the distilled student is worse than the same network trained alone.",
            0: "No measurable difference between the distilled student and the same network trained alone.",
        }[gains[0].sign]
    counts = [
        f"{count} {'is' if count == 1 else 'are'} {word}"
        for count, word in ((better, "better"), (worse, "worse"), (equal, "not measurably different"))
        if count
    ]
    what = "helped" if better == len(gains) else "did not help" if not better else f"helped {better} times"
    return (
        f"Distillation {what}: of {len(gains)} distilled students, each compared with the same network trained alone, "
        f"{_listed(counts)}."
    )


def sentence(report: Report) -> str:
    """Teacher, plain and distilled student in one sentence; empty where nothing was distilled."""
    student, score = report.student, report.names[0]
    if student is None:
        return ""
    trio = [group for group in (report.teacher, report.by_name(student.control), student) if group is not None]
    parts = [f"{group.name} {mean_text(report.estimates[group.name, score])}" for group in trio]
    where = "" if student.first.split == "test" else " (val: not tested)"
    conclusion = ""
    if gain := _gain_of(report, student):
        verdict = gain.verdict if gain.verdict == NOTHING else f"{gain.group} is {gain.verdict}"
        conclusion = f"; the gain is {interval_text(gain.estimate, signed=True)}: {verdict}"
    several = sum(group.role == "distilled" for group in report.groups) > 1
    chosen = " This is the distilled student with the best score on val." if several else ""
    return f"{score[0].upper()}{score[1:]}{where}: {', '.join(parts)}{conclusion}.{chosen}"


def tiles(report: Report) -> list[tuple[str, str, str]]:
    """Key numbers, each with its description and a remark."""
    score, teacher, student = report.names[0], report.teacher, report.student
    found = []
    if teacher:
        found.append((mean_text(report.estimates[teacher.name, score]), f"{score} of the teacher", teacher.name))
    if student:
        mean = mean_text(report.estimates[student.name, score])
        found.append((mean, f"{score} of the distilled student", student.name))
        if gain := _gain_of(report, student):
            low, high = f"{gain.estimate.low:+.3f}", f"{gain.estimate.high:+.3f}"
            how = f"95 % interval {low} to {high}"
            found.append((f"{gain.estimate.mean:+.3f}", "gain over the same network alone", how))
    if teacher and student:
        ours, theirs = report.works[student.name], report.works[teacher.name]
        sizes = f"{ours.parameters / 1e6:.2f} M of {theirs.parameters / 1e6:.2f} M"
        found.append((*_ratio(theirs.parameters / ours.parameters, "fewer parameters", "more parameters"), sizes))
        work = f"{ours.macs / 1e9:.2f} of {theirs.macs / 1e9:.2f} GMACs"
        found.append((*_ratio(theirs.macs / ours.macs, "less arithmetic", "more arithmetic"), work))
        if timings := report.timed.get("cpu"):
            name = timed_names(report.groups)[student.name]
            forms = {name, *(f"{student.name} {form}" for form in TIMED.values())}
            mine = [timing for timing in timings if timing.name in forms]
            if best := min(mine, key=lambda timing: timing.total_s, default=None):
                speed = reference(timings, report.groups).total_s / best.total_s
                what = precision_of(best) if best.name == name else best.name.removeprefix(f"{student.name} ")
                ratio = _ratio(speed, "faster from file to file", "slower from file to file")
                found.append((*ratio, f"{what}, the teacher in PyTorch fp32"))
    return found


def interval_text(estimate: Estimate, signed: bool = False) -> str:
    """A mean with its interval: 0.812 [0.790, 0.834]."""
    sign = "+" if signed else ""
    if math.isnan(estimate.mean):
        return UNDEFINED
    if math.isnan(estimate.low):
        return f"{estimate.mean:{sign}.3f} (interval {UNDEFINED})"
    return f"{estimate.mean:{sign}.3f} [{estimate.low:{sign}.3f}, {estimate.high:{sign}.3f}]"


def mean_text(estimate: Estimate, signed: bool = False) -> str:
    return UNDEFINED if math.isnan(estimate.mean) else format(estimate.mean, "+.3f" if signed else ".3f")


def ends_text(estimate: Estimate, signed: bool = False) -> str:
    """The ends of an interval: 0.790 … 0.834; empty where there is no mean either."""
    if math.isnan(estimate.mean):
        return ""
    form = "+.3f" if signed else ".3f"
    if math.isnan(estimate.low):
        return f"interval {UNDEFINED}"
    return f"{estimate.low:{form}} … {estimate.high:{form}}"


def _gain_of(report: Report, student: Group) -> Gain | None:
    return next((gain for gain in report.firsts if gain.group == student.name), None)


def _ratio(value: float, above: str, below: str) -> tuple[str, str]:
    """How many times, and the word for it: `above` for 1 and more, `below` for the inverse of less."""
    return f"{max(value, 1 / value):.1f}{TIMES}", f"{above if value >= 1 else below} than the teacher"


def _listed(parts: Sequence[str] | dict[str, None]) -> str:
    parts = list(parts)
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
