"""From run folders to the page."""

from __future__ import annotations

import datetime
from collections.abc import Callable

from utils.evaluation import drawing
from utils.evaluation.statistics import RULE
from utils.prediction.latency import STAGES
from utils.report import latency, method, scores, summary
from utils.report.facts import Report, Wanted, gather
from utils.report.page import TEMPLATES, write_page
from utils.runs.groups import short_names
from utils.runs.results import labels_seen


def make_report(wanted: Wanted, warn: Callable[[str], None]) -> list[str]:
    """Write the page. Returns a line for each thing that is missing from it, each also given to `warn`.

    Raises ValueError where no run can be read at all.
    """
    report = gather(wanted, warn)
    now = datetime.datetime.now().astimezone()
    write_page(
        wanted.output,
        TEMPLATES / "report.html.j2",
        title=wanted.title or summary.title(report),
        eyebrow=f"Distillation report · {now:%d %B %Y}",
        subtitle=_subtitle(report),
        report=report,
        palette=_palette(report),
        machine=method.machine(f"{now:%d %B %Y, %H:%M %Z}"),
        **{"method": method, "scores": scores, "summary": summary, "latency": latency, "short_names": short_names},
        **{"rule": RULE, "stages": STAGES},
    )
    return report.notes


def _subtitle(report: Report) -> str:
    first, runs = report.first, sum(len(group.runs) for group in report.groups)
    task = "classification of" if first.classifies else "segmentation of"
    seen = labels_seen({group.name: group.first.recipe for group in report.groups})
    labels = f"; labels: {seen}" if seen else ""
    return f"{len(report.groups)} recipes, {runs} runs; {task} {', '.join(first.class_names)}; {report.tested}{labels}"


def _palette(report: Report) -> dict[str, dict[str, str]]:
    """What the colors of classes and errors mean."""
    names = report.first.class_names
    classes = {name: drawing.css(drawing.CLASS_SHADES[n % len(drawing.CLASS_SHADES)]) for n, name in enumerate(names)}
    errors = {"missed (false negative)": drawing.MISSED, "false alarm (false positive)": drawing.FALSE_ALARM}
    if len(names) > 1:
        errors["another class"] = drawing.OTHER_CLASS
    return {"classes": classes, "errors": {name: drawing.css(shade) for name, shade in errors.items()}}
