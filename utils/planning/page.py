"""A plan's page: what the data hold, what was chosen and why, and what a training takes."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from datasets.splits import SPLITS
from utils.planning import recipes
from utils.planning.fingerprint import CaseFacts, Fingerprint, pixel
from utils.planning.planned import Plan
from utils.report.page import write_page

TEMPLATE = Path(__file__).resolve().with_name("plan.html.j2")


def write_plan(file: Path, plan: Plan, command: str, commands: list[str]) -> None:
    """Write the page whole or not at all. command: what was run; commands: what to run next."""
    fingerprint = plan.fingerprint
    patients = sum(fingerprint.patients(split) for split in SPLITS)
    write_page(
        file,
        TEMPLATE,
        title=f"{plan.root.name}: a plan",
        eyebrow=f"Plan · {datetime.date.today():%d %B %Y}",
        subtitle=f"{fingerprint.modality}, {patients} patients, {', '.join(fingerprint.class_names)}",
        facts=facts(fingerprint),
        splits=[_split(fingerprint, split) for split in SPLITS],
        classes=[_class(fingerprint, value, name) for value, name in sorted(fingerprint.labels.items())],
        choices={key: (recipes.inline(choice.value), choice.why) for key, choice in plan.choices.items()},
        forecasts=[_forecast(plan, role) for role in plan.forecasts],
        **{"plan": plan, "command": command, "commands": commands, "names": SPLITS},
    )


def facts(fingerprint: Fingerprint) -> list[tuple[str, str]]:
    """Sizes, millimeters and intensities of the training cases."""
    cases, marked = fingerprint.training, fingerprint.with_foreground
    found = [
        ("Slices of a case", _span((case.shape[0] for case in cases), "{:.0f}")),
        ("Rows", _span((case.shape[1] for case in cases), "{:.0f}")),
        ("Columns", _span((case.shape[2] for case in cases), "{:.0f}")),
        ("Pixel", _span((pixel(case) for case in cases), "{:.2f}", " mm")),
        ("Between slices", _span((case.spacing and case.spacing[0] for case in cases), "{:.2f}", " mm")),
        ("Foreground, rows", _span((_extent(case, 0) for case in marked), "{:.0f}", " mm")),
        ("Foreground, columns", _span((_extent(case, 1) for case in marked), "{:.0f}", " mm")),
    ]
    low, high = fingerprint.percentiles
    unit = " HU" if fingerprint.modality == "CT" else ""
    found.append(("Intensities within the foreground", f"{low:.4g} to {high:.4g}{unit} (0.5 and 99.5 percentile)"))
    return [(name, text) for name, text in found if text]


def _extent(case: CaseFacts, axis: int) -> float | None:
    """mm from the first to the last row (0) or column (1) of the foreground."""
    if case.spacing is None or case.foreground is None or case.foreground.box is None:
        return None
    return (case.foreground.box[axis + 2] - case.foreground.box[axis]) * case.spacing[axis + 1]


def _span(values: Iterable[float | None], form: str, unit: str = "") -> str:
    """Median, smallest and largest; empty where nothing is known."""
    known = sorted(value for value in values if value is not None)
    if not known:
        return ""
    low, middle, high = (form.format(value) for value in (known[0], known[len(known) // 2], known[-1]))
    return f"{middle}{unit}" if low == high else f"{middle}{unit} ({low} to {high})"


def _split(fingerprint: Fingerprint, split: str) -> dict[str, Any]:
    present, absent = fingerprint.slices(split)
    return {
        "name": split,
        "patients": fingerprint.patients(split),
        "cases": len(fingerprint.of(split)),
        "slices": present + absent,
        "share": 100 * present / (present + absent) if present + absent else None,
    }


def _class(fingerprint: Fingerprint, value: int, name: str) -> dict[str, Any]:
    volumes = [case.milliliters.get(value) for case in fingerprint.training]
    return {
        "name": f"{value} {name}",
        "patients": [fingerprint.patients(split, value) for split in SPLITS],
        "volume": _span(volumes, "{:.3g}", " ml"),
    }


def _forecast(plan: Plan, role: str) -> dict[str, Any]:
    """What a training takes, by batches about the chosen one."""
    forecast, batch = plan.forecasts[role], plan.choices["training.batch_size"].value
    batches = sorted({*forecast.tried, batch, 2 * batch})
    return {
        "role": role,
        "network": plan.recipes[role]["network"]["name"],
        "device": forecast.device,
        "limit": forecast.limit / 1e9,
        "minutes": plan.minutes(role),
        "rows": [
            {"batch": each, "peak": forecast.peak(each) / 1e9, "tried": each in forecast.tried, "chosen": each == batch}
            for each in batches
        ],
    }
