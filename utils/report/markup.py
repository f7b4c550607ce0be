"""Pieces of HTML: escaped text, tables, figures, legends, pictures within the page."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

QUALITY = 88
TIMES, MISSING = "\u00d7", "\u2013"  # a multiplication sign, a dash


@dataclass(frozen=True)
class Column:
    """Of a table: its head, whether it holds numbers (right-aligned), and a note shown on hovering."""

    head: str
    number: bool = False
    note: str = ""


def text(value: object) -> str:
    """Escaped for HTML, attributes too."""
    return html.escape(str(value), quote=True)


def table(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], caption: str = "", over: Sequence[tuple[str, int]] = ()
) -> str:
    """A table of HTML cells that scrolls where it is wider than the page; the first cell names its row.

    over: heads above the columns' own, each with the number of columns that it spans.
    """
    heads = "".join(f'<th scope="col"{_class(column)}{_title(column)}>{text(column.head)}</th>' for column in columns)
    lines = []
    for row in rows:
        first, *others = zip(columns, row, strict=True)
        cells = "".join(f"<td{_class(column)}>{cell}</td>" for column, cell in others)
        lines.append(f'<tr><th scope="row"{_class(first[0])}>{first[1]}</th>{cells}</tr>')
    below = f'<p class="note">{caption}</p>' if caption else ""
    above = "".join(f'<th scope="colgroup" class="over" colspan="{count}">{text(head)}</th>' for head, count in over)
    heads = f"<tr>{above}</tr><tr>{heads}</tr>" if over else f"<tr>{heads}</tr>"
    inside = f"<table><thead>{heads}</thead><tbody>{''.join(lines)}</tbody></table>"
    return f'<div class="scroll">{inside}</div>{below}'


def _class(column: Column) -> str:
    return ' class="number"' if column.number else ""


def _title(column: Column) -> str:
    return f' title="{text(column.note)}"' if column.note else ""


def details(summary: str, content: str, is_open: bool = False) -> str:
    """Something folded; `summary` and `content` are HTML."""
    return f"<details{' open' if is_open else ''}><summary>{summary}</summary><div>{content}</div></details>"


def figure(content: str, caption: str, kind: str = "") -> str:
    """A figure that is never broken over pages; `content` and `caption` are HTML."""
    return f'<figure class="{kind}">{content}<figcaption>{caption}</figcaption></figure>'


def picture(pixels: NDArray[np.uint8], alt: str) -> str:
    """An image (H, W, 3) within the page, as WebP."""
    packed = io.BytesIO()
    Image.fromarray(pixels).save(packed, "WEBP", quality=QUALITY, method=4)
    encoded = base64.b64encode(packed.getvalue()).decode()
    height, width = pixels.shape[:2]
    return (
        f'<img alt="{text(alt)}" width="{width}" height="{height}" loading="eager" '
        f'src="data:image/webp;base64,{encoded}">'
    )


def swatch(color: str, dash: str = "", kind: str = "line") -> str:
    """A piece of a line, or a square, as a legend shows it; `color` is a CSS value."""
    if kind == "line":
        shape = f'<line x1="1" x2="23" y1="6" y2="6" style="stroke:{color}" stroke-dasharray="{dash}"/>'
    else:
        shape = f'<rect x="6" y="0" width="12" height="12" rx="2" style="fill:{color}"/>'
    return f'<svg class="swatch" width="24" height="12" aria-hidden="true">{shape}</svg>'


def legend(entries: Sequence[tuple[str, str]]) -> str:
    """Swatches (HTML) with their names (text)."""
    items = "".join(f"<li>{sign}<span>{text(name)}</span></li>" for sign, name in entries)
    return f'<ul class="legend">{items}</ul>'


def section(identity: str, title: str, content: str, lead: str = "") -> str:
    """A part of the page with its heading; `lead` and `content` are HTML."""
    before = f'<p class="lead">{lead}</p>' if lead else ""
    return f'<section id="{identity}"><h2>{text(title)}</h2>{before}{content}</section>'
