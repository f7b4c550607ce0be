"""Tables of teacher, student alone and distilled: scores with intervals, gains, costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from utils.evaluation.complexity import Complexity
from utils.evaluation.statistics import UNDEFINED
from utils.prediction.latency import Timing
from utils.report.bars import interval, interval_axis, interval_scale
from utils.report.colors import Style
from utils.report.gains import Estimate, Gain
from utils.report.markup import MISSING, TIMES, Column, table, text
from utils.report.provenance import chip
from utils.report.summary import interval_text, why
from utils.report.timings import precision_of, timed_names
from utils.runs.groups import Group

SURFACES = (
    ("surface_dice", "surface Dice", 3),
    ("hd95_mm", "HD95 mm", 2),
    ("assd_mm", "ASSD mm", 2),
    ("voe", "VOE", 3),
    ("abs_rvd", "|RVD|", 3),
    ("lesion_f1", "lesion F1", 3),
)


def show_scores(
    groups: Sequence[Group],
    scores: Sequence[str],
    found: Mapping[tuple[str, str], Estimate],
    styles: Mapping[str, Style],
) -> str:
    """A row a group: each score with its interval, the first one drawn."""
    axis = interval_axis([_triple(found[group.name, scores[0]]) for group in groups])
    columns = [Column("run"), Column("role"), Column("seeds", True), Column(scores[0], True), Column("95 % interval")]
    columns += [Column(score, True) for score in scores[1:]]
    rows = []
    for group in groups:
        first = found[group.name, scores[0]]
        note = f"{group.name}: {interval_text(first)}"
        split = "" if group.first.split == "test" else ' <small class="warning">val, not tested</small>'
        rows.append(
            [
                text(group.name) + split,
                chip(group),
                str(len(group.runs)),
                _estimate(first),
                interval(axis, *_triple(first), styles[group.name].color, note),
                *(_estimate(found[group.name, score]) for score in scores[1:]),
            ]
        )
    rows.append(["", "", "", "", interval_scale(axis), *([""] * len(scores[1:]))])
    return table(columns, rows)


def show_gains(gains: Sequence[Gain], scores: Sequence[str], styles: Mapping[str, Style]) -> str:
    """A row a distilled group: what it gained over the same network alone, the first score drawn."""
    by_place = {(gain.group, gain.score): gain for gain in gains}
    firsts = [gain for gain in gains if gain.score == scores[0]]
    axis = interval_axis([_triple(gain.estimate) for gain in firsts], zero=True)
    columns = [Column("distilled"), Column(f"gain, {scores[0]}", True), Column("95 % interval")]
    columns += [Column("conclusion"), *(Column(f"gain, {score}", True) for score in scores[1:])]
    rows = []
    for gain in firsts:
        kind = {1: "good", -1: "bad", 0: "none"}[gain.sign]
        others = [by_place.get((gain.group, score)) for score in scores[1:]]
        note = f"{gain.group} - {gain.control}: {interval_text(gain.estimate, signed=True)}"
        rows.append(
            [
                f"{text(gain.group)} <small>against {text(gain.control)}</small>",
                _estimate(gain.estimate, signed=True),
                interval(axis, *_triple(gain.estimate), styles[gain.group].color, note, zero=True),
                f'<span class="verdict {kind}">{text(gain.verdict)}</span>{why(gain)}',
                *(_estimate(other.estimate, signed=True) if other else "" for other in others),
            ]
        )
    rows.append(["", "", interval_scale(axis, signed=True), "", *([""] * len(scores[1:]))])
    return table(columns, rows)


def show_costs(
    groups: Sequence[Group],
    works: Mapping[str, Complexity],
    milliseconds: Mapping[str, float],
    timings: Sequence[Timing],
) -> str:
    """Parameters, work, size, time and memory of each group's network."""
    columns = [
        Column("run"),
        Column("role"),
        Column("parameters", True),
        Column("GMACs", True, "multiply-accumulates of one image"),
        Column("image"),
        Column("best.ckpt", True),
    ]
    columns += [Column("ms/image", True, "network alone, batch 1, fp32, this CPU")] if milliseconds else []
    names = timed_names(groups)
    volumes = list(dict.fromkeys(precision_of(timing) for timing in timings if timing.name in names.values()))
    for precision in volumes:
        columns += [Column(f"s/volume {precision}", True, "from file to file"), Column(f"memory {precision}", True)]
    rows = []
    for group in groups:
        run, work = group.first, works[group.name]
        row = [
            text(group.name),
            chip(group),
            f"{work.parameters / 1e6:.2f} M",
            f"{work.macs / 1e9:.2f}",
            f"{run.size}{TIMES}{run.size}",
            f"{run.file_bytes / 1e6:.1f} MB",
        ]
        row += [f"{milliseconds[group.name]:.1f}"] if milliseconds else []
        for precision in volumes:
            mine = [each for each in timings if each.name == names[group.name] and precision_of(each) == precision]
            row += [f"{mine[0].total_s:.2f}", f"{mine[0].peak_memory_mb:.0f} MB"] if mine else ["", ""]
        rows.append(row)
    return table(columns, rows)


def show_surfaces(groups: Sequence[Group]) -> str:
    """Means of what scripts/evaluate.py measured, over the cases where each exists; nothing where it was not run."""
    measured = [group for group in groups if any(run.surfaces for run in group.runs)]
    if not measured:
        return ""
    columns = [Column("run"), Column("class"), *(Column(name, True) for _, name, _ in SURFACES)]
    rows = []
    for group in measured:
        all_rows = [row for run in group.runs for row in run.surfaces or ()]
        for class_name in dict.fromkeys(row["class"] for row in all_rows):
            mine = [row for row in all_rows if row["class"] == class_name]
            cells = []
            for key, _, digits in SURFACES:
                values = [row[key] for row in mine if row.get(key) is not None]
                missing = f" <small>({len(values)} of {len(mine)})</small>" if len(values) < len(mine) else ""
                cells.append(f"{np.mean(values):.{digits}f}{missing}" if values else MISSING)
            rows.append([text(group.name), text(class_name), *cells])
    return table(columns, rows, "Written by scripts/evaluate.py. (n of m): cases in which the distance exists.")


def _triple(estimate: Estimate) -> tuple[float, float, float]:
    return estimate.mean, estimate.low, estimate.high


def _estimate(estimate: Estimate, signed: bool = False) -> str:
    sign = "+" if signed else ""
    if math.isnan(estimate.mean):
        return f"<small>{UNDEFINED}</small>"
    low, high = f"{estimate.low:{sign}.3f}", f"{estimate.high:{sign}.3f}"
    ends = f"interval {UNDEFINED}" if math.isnan(estimate.low) else f"{low} … {high}"
    return f"<b>{estimate.mean:{sign}.3f}</b> <small>{ends}</small>"
