"""A page from a template: text is escaped, and a file of somebody else is not replaced."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import jinja2
import yaml

from datasets.files import write_text
from utils.evaluation.statistics import BETTER, NOTHING, WORSE
from utils.report import charts
from utils.runs.groups import ROLE_NAMES

TEMPLATES = Path(__file__).resolve().parent / "templates"
MARKS = (b'<meta name="generator" content="distillation report">', b'<p class="eyebrow">Distillation ')  # or older
KINDS = {BETTER: "good", NOTHING: "none", WORSE: "bad"}  # of CSS


def write_page(path: Path, template: Path, **values: Any) -> None:
    """Write the page whole or not at all; every text among `values` is escaped.

    template: extends `page.html.j2`, and is given `title`, `eyebrow` and `subtitle`.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, TEMPLATES]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"charts": charts, "role_names": ROLE_NAMES, "kinds": KINDS}
    environment.filters |= {"yaml": _as_yaml, "shell": shlex.quote}
    page = environment.get_template(template.name).render(**values)
    refuse_foreign(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page)


def _as_yaml(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100)


def refuse_foreign(path: Path) -> None:
    """Raises ValueError where a file that this program did not write would be replaced."""
    if not path.exists():
        return
    page = path.read_bytes()
    if page and not any(mark in page for mark in MARKS):
        raise ValueError(f"{path}: is there already, and this program did not write it: choose another name")
