"""The verdict in a sentence, and the numbers beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from utils.evaluation.complexity import Complexity
from utils.evaluation.statistics import NOTHING, UNDEFINED
from utils.prediction.latency import Timing
from utils.report.exports import TIMED
from utils.report.gains import Estimate, Gain
from utils.report.markup import TIMES, text
from utils.report.timings import precision_of, reference, timed_names
from utils.runs.groups import Group


def headline(gains: Sequence[Gain], groups: Sequence[Group]) -> str:
    """What distillation did, of all distilled students together. Plain text."""
    distilled = [group for group in groups if group.role == "distilled"]
    if not distilled:
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


def sentence(
    teacher: tuple[Group, Estimate] | None,
    control: tuple[Group, Estimate] | None,
    student: tuple[Group, Estimate],
    gain: Gain | None,
    score: str,
) -> str:
    """Teacher, plain and distilled student in one sentence. Plain text."""
    split = student[0].first.split
    parts = [f"{name} {_mean(value)}" for name, value in _scored(teacher, control, student)]
    where = "" if split == "test" else " (val: not tested)"
    conclusion = ""
    if gain is not None:
        verdict = gain.verdict if gain.verdict == NOTHING else f"{gain.group} is {gain.verdict}"
        conclusion = f"; the gain is {interval_text(gain.estimate, signed=True)}: {verdict}"
    return f"{score[0].upper()}{score[1:]}{where}: {', '.join(parts)}{conclusion}."


def _scored(*pairs: tuple[Group, Estimate] | None) -> list[tuple[str, Estimate]]:
    return [(pair[0].name, pair[1]) for pair in pairs if pair is not None]


def verdicts(gains: Sequence[Gain]) -> str:
    """A line for each distilled student, in HTML."""
    kinds = {1: "good", -1: "bad", 0: "none"}
    items = "".join(
        f'<li><span class="verdict {kinds[gain.sign]}">{text(gain.verdict)}</span> <b>{text(gain.group)}</b> against '
        f"{text(gain.control)}: {interval_text(gain.estimate, signed=True)}{_seeds(gain)}{why(gain)}</li>"
        for gain in gains
    )
    return f'<ul class="verdicts">{items}</ul>' if gains else ""


def tiles(
    teacher: tuple[Group, Estimate] | None,
    student: tuple[Group, Estimate] | None,
    gain: Gain | None,
    works: Mapping[str, Complexity],
    timings: Sequence[Timing],
    groups: Sequence[Group],
    score: str,
) -> str:
    """Key numbers, in HTML."""
    found = []
    if teacher:
        found.append((_mean(teacher[1]), f"{score} of the teacher", teacher[0].name))
    if student:
        found.append((_mean(student[1]), f"{score} of the distilled student", student[0].name))
    if gain:
        low, high = f"{gain.estimate.low:+.3f}", f"{gain.estimate.high:+.3f}"
        found.append(
            (f"{gain.estimate.mean:+.3f}", "gain over the same network alone", f"95 % interval {low} to {high}")
        )
    if teacher and student:
        ours, theirs = works[student[0].name], works[teacher[0].name]
        sizes = f"{ours.parameters / 1e6:.2f} M of {theirs.parameters / 1e6:.2f} M"
        found.append((*_ratio(theirs.parameters / ours.parameters, "fewer parameters", "more parameters"), sizes))
        work = f"{ours.macs / 1e9:.2f} of {theirs.macs / 1e9:.2f} GMACs"
        found.append((*_ratio(theirs.macs / ours.macs, "less arithmetic", "more arithmetic"), work))
    if timings and teacher and student:
        base = reference(timings, groups)
        name = timed_names(groups)[student[0].name]
        forms = {name, *(f"{student[0].name} {form}" for form in TIMED.values())}
        mine = [timing for timing in timings if timing.name in forms]
        best = min(mine, key=lambda timing: timing.total_s, default=None)
        if best is not None:
            value, word = _ratio(base.total_s / best.total_s, "faster from file to file", "slower from file to file")
            what = precision_of(best) if best.name == name else best.name.removeprefix(f"{student[0].name} ")
            found.append((value, word, f"{what}, the teacher in PyTorch fp32"))
    items = "".join(
        f"<li><b>{text(value)}</b><span>{text(what)}</span><small>{text(how)}</small></li>"
        for value, what, how in found
    )
    return f'<ul class="numbers">{items}</ul>'


def _ratio(value: float, above: str, below: str) -> tuple[str, str]:
    """How many times, and the word for it: `above` for 1 and more, `below` for the inverse of less."""
    return f"{max(value, 1 / value):.1f}{TIMES}", f"{above if value >= 1 else below} than the teacher"


def interval_text(estimate: Estimate, signed: bool = False) -> str:
    sign = "+" if signed else ""
    if math.isnan(estimate.mean):
        return UNDEFINED
    if math.isnan(estimate.low):
        return f"{estimate.mean:{sign}.3f} (interval {UNDEFINED})"
    return f"{estimate.mean:{sign}.3f} [{estimate.low:{sign}.3f}, {estimate.high:{sign}.3f}]"


def why(gain: Gain) -> str:
    """Why no more can be claimed, in HTML; often nothing."""
    return f" <small>{text(gain.why)}</small>" if gain.why else ""


def _mean(estimate: Estimate) -> str:
    return UNDEFINED if math.isnan(estimate.mean) else f"{estimate.mean:.3f}"


def _seeds(gain: Gain) -> str:
    if len(gain.estimate.seeds) == 1:
        return ", one seed"
    return f"; by seed {', '.join(f'{seed:+.3f}' for seed in gain.estimate.seeds)}"


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
