"""The page: parts in their order, in the template beside this file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from string import Template

from utils.report.markup import text

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
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(page, encoding="utf-8")
    partial.replace(path)
