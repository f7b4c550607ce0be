"""The page: parts in their order, in the template beside this file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from string import Template

from datasets.files import write_text
from utils.report.markup import text

MARKS = (b'<meta name="generator" content="distillation report">', b'<p class="eyebrow">Distillation ')  # or older
FOLDER = Path(__file__).resolve().parent


def write_page(path: Path, title: str, eyebrow: str, subtitle: str, parts: Sequence[tuple[str, str, str]]) -> None:
    """Write the page whole or not at all. parts: (identity, name in the table of contents, HTML of the section).

    title, eyebrow and subtitle are text.
    """
    contents = "".join(f'<a href="#{identity}">{text(name)}</a>' for identity, name, _ in parts)
    page = Template((FOLDER / "page.html").read_text(encoding="utf-8")).substitute(
        title=text(title),
        eyebrow=text(eyebrow),
        subtitle=text(subtitle),
        style=(FOLDER / "page.css").read_text(encoding="utf-8"),
        contents=contents,
        parts="\n".join(content for _, _, content in parts),
    )
    refuse_foreign(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page)


def refuse_foreign(path: Path) -> None:
    """Raises ValueError where a file that is no page of this program would be replaced."""
    if not path.exists():
        return
    page = path.read_bytes()
    if page and not any(mark in page for mark in MARKS):
        raise ValueError(f"{path}: is there already, and this program did not write it: choose another name")
