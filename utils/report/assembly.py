"""From run folders to the page."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path

from utils.report import parts
from utils.report.facts import Wanted, gather
from utils.report.page import write_page


def make_report(wanted: Wanted, tell: Callable[[str], None]) -> list[str]:
    """Write the page. Returns a line for each thing that is missing from it, each also given to `tell`.

    Raises ValueError where no run can be read at all.
    """
    report = gather(wanted, tell)
    made = [
        ("data", "Data and recipes", parts.show_data(report)),
        ("scores", "Scores", parts.show_scores(report)),
        ("curves", "Learning curves", parts.show_curves(report)),
        ("latency", "Latency", parts.show_latency(report)),
        ("exports", "Exported files", parts.show_exports(report)),
        *parts.show_pictures(report),
        ("method", "How it was measured", parts.show_method(report)),
    ]
    made = [("summary", "Summary", parts.show_summary(report)), *made]  # last: it tells what is missing from the others
    first = report.first
    kind = "classification of" if first.classifies else "segmentation of"
    title = wanted.title or Path(first.data).stem.replace("_", " ")
    subtitle = (
        f"{len(report.groups)} recipes, {sum(len(group.runs) for group in report.groups)} runs; {kind} "
        f"{', '.join(first.class_names)}; {report.tested}"
    )
    write_page(
        wanted.output,
        title[:1].upper() + title[1:],
        f"Distillation report · {datetime.date.today():%d %B %Y}",
        subtitle,
        [part for part in made if part[2]],
    )
    return report.notes
