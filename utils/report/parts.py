"""The parts of the page, each from what is known; what cannot be made is noted and the rest goes on."""

from __future__ import annotations

import datetime

from utils.evaluation.statistics import RULE
from utils.report import answers, attention, cases, exports, learning, method, provenance, scores, summary, timings
from utils.report.curves import read_curves
from utils.report.facts import Report
from utils.report.gains import Estimate
from utils.report.machine import describe_machine
from utils.report.markup import section, text
from utils.runs.groups import Group


def show_summary(report: Report) -> str:
    score = report.names[0]
    firsts = [gain for gain in report.gains if gain.score == score]
    student, teacher = report.student, report.teacher

    def with_score(group: Group | None) -> tuple[Group, Estimate] | None:
        return (group, report.estimates[group.name, score]) if group else None

    content = f'<p class="headline">{text(summary.headline(firsts, report.groups))}</p>'
    its_gain = next((gain for gain in firsts if student and gain.group == student.name), None)
    if student is not None:
        control = with_score(report.by_name(student.control))
        line = summary.sentence(with_score(teacher), control, with_score(student), its_gain, score)
        several = sum(group.role == "distilled" for group in report.groups) > 1
        chosen = " This is the distilled student with the best score on val." if several else ""
        content += f'<p class="sentence">{text(line + chosen)}</p>'
    content += summary.tiles(
        with_score(teacher),
        with_score(student),
        its_gain,
        report.works,
        report.timed.get("cpu", []),
        report.groups,
        score,
    )
    if len(firsts) > 1:
        content += f"<h3>Gain in {text(score)} over {text(report.tested)}</h3>{summary.verdicts(firsts)}"
    if report.notes:
        lines = "".join(f"<li>{text(line)}</li>" for line in report.notes)
        content += f'<div class="problems"><b>Missing from this page</b><ul>{lines}</ul></div>'
    return section("summary", "At a glance", content)


def show_data(report: Report) -> str:
    first = report.first
    content = provenance.show_data(first, report.wanted.data) + "<h3>Runs</h3>" + provenance.show_runs(report.groups)
    return section("data", "What was trained on what", content)


def show_scores(report: Report) -> str:
    first = report.first
    content = scores.show_scores(report.groups, report.names, report.estimates, report.styles)
    rule = first.rule[:1].upper() + first.rule[1:]
    content += f'<p class="note">Means over {text(report.tested)}; small: 95 % interval. {text(rule)}.</p>'
    if report.gains:
        content += "<h3>What distillation gained</h3>" + scores.show_gains(report.gains, report.names, report.styles)
        content += (
            '<p class="note">Paired by case against the same network trained alone. '
            f"{text(RULE[:1].upper() + RULE[1:])}; the conclusion is about the first score.</p>"
        )
    if surfaces := scores.show_surfaces(report.groups):
        content += f"<h3>Distances and lesions</h3>{surfaces}"
    content += "<h3>What each network costs</h3>"
    content += scores.show_costs(report.groups, report.works, report.milliseconds, report.timed.get("cpu", []))
    if first.classifies:
        content += "<h3>Each class</h3>" + answers.class_scores(report.groups)
    return section("scores", "Teacher, student alone, distilled", content)


def show_curves(report: Report) -> str:
    curves = {}
    for group in report.groups:
        for run in group.runs:
            try:
                curves[run.folder] = read_curves(run.folder)
            except (ValueError, OSError) as error:
                report.note(f"{run.folder}: no learning curves: {error}")
    if not curves:
        return ""
    content = learning.show_learning(report.groups, curves, report.styles)
    if terms := learning.show_terms(report.groups, curves):
        content += f'<section id="terms"><h2>Terms of the loss</h2>{terms}</section>'
    return section("curves", "Learning curves", content)


def show_latency(report: Report) -> str:
    if not any(report.timed.values()):
        return ""
    lead = f"{text(report.timed_what)}. Every prediction is a process of its own; medians of "
    lead += (
        f"{report.wanted.repeats}. Networks of one kind cost the same, whatever they were trained with: one is timed."
    )
    content = "".join(
        f"<h3>{'GPU' if device == 'cuda' else 'CPU'}</h3>{timings.show_timings(timed, report.groups)}"
        for device, timed in report.timed.items()
        if timed
    )
    return section("latency", "Latency from file to file", content, lead)


def show_exports(report: Report) -> str:
    if not report.exports:
        return ""
    return section("exports", "Exported files", exports.show_exports(report.exports))


def show_pictures(report: Report) -> list[tuple[str, str, str]]:
    if report.first.classifies:
        return _images(report)
    student = report.student or report.groups[-1]
    if not report.wanted.cases:
        return []
    split, root = student.first.split, report.wanted.data
    try:
        chosen = cases.choose_cases(student.first, report.wanted.cases)
        shown = cases.predict_shown(report.groups, chosen, split, root)
    except (ValueError, OSError) as error:
        report.note(f"no pictures of cases: {error}")
        return []
    names = student.first.class_names
    lead = (
        f"By mean Dice of {text(student.name)} on {split}; the slice with most target. Below each pair its Dice of the "
        "whole case; of several seeds the first is shown."
    )
    parts = [("cases", "Cases", section("cases", "Cases", cases.show_cases(shown, report.groups, names), lead))]
    try:
        maps = attention.show_attention(shown, report.compared, names, split, root)
    except (ValueError, RuntimeError) as error:
        report.note(f"no attention maps: {error}")
        return parts
    lead = "Where the deepest feature map speaks for a class (Grad-CAM), bright: most. The line is the target."
    return [*parts, ("attention", "Attention", section("attention", "Attention", maps, lead))]


def _images(report: Report) -> list[tuple[str, str, str]]:
    matrices = "".join(answers.confusion_matrix(group.first, group.name) for group in report.groups)
    parts = [("confusion", "Confusion", section("confusion", "Confusion", f'<div class="matrices">{matrices}</div>'))]
    student = report.student or report.groups[-1]
    try:
        dataset = answers.open_images(student.first, report.wanted.data)
        if not report.wanted.cases:
            return parts
        grids = answers.show_answers(report.groups, student, dataset)
        parts.append(("cases", "Images", section("cases", "Images and answers", grids, "In bold the target.")))
        maps = answers.show_image_attention(report.compared, dataset, 2 * report.wanted.cases)
        lead = "Where the deepest feature map speaks for the target's class (Grad-CAM), bright: most."
        parts.append(("attention", "Attention", section("attention", "Attention", maps, lead)))
    except (ValueError, OSError, RuntimeError) as error:
        report.note(f"no pictures of images: {error}")
    return parts


def show_method(report: Report) -> str:
    date = datetime.datetime.now().astimezone().strftime("%d %B %Y, %H:%M %Z")
    content = method.show_method(
        report.groups,
        describe_machine(),
        date,
        report.wanted.command,
        report.timed_what,
        bool(report.wanted.cases),
    )
    return section("method", "How it was measured", content)
