"""Sheets of pictures with a line of text each: what a script did, to look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from datasets.files import replacing

SIDE = 150  # pixels: longer side of an image on a sheet
LINE = 15
GAP = 4
INK = (20, 20, 20)


def cell(images: Sequence[NDArray[np.uint8]], text: str) -> Image.Image:
    """Images (H, W) or (H, W, 3) side by side, each in a square of 150 pixels, with a line of text below."""
    font = ImageFont.load_default(11)
    width = len(images) * (SIDE + GAP)
    picture = Image.new("RGB", (width, SIDE + LINE + GAP), "white")
    for number, image in enumerate(images):
        shown = Image.fromarray(image).convert("RGB")
        scale = SIDE / max(shown.size)
        way = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
        size = [max(1, round(scale * pixels)) for pixels in shown.size]
        picture.paste(shown.resize(size, way), (number * (SIDE + GAP), 0))
    while text and font.getlength(text) > width - GAP:
        text = text[1:]  # the end of a path tells more than its start
    ImageDraw.Draw(picture).text((0, SIDE), text, INK, font)
    return picture


def write_sheet(file: Path, parts: dict[str, Sequence[Image.Image]], columns: int) -> None:
    """One PNG: under each heading its cells, `columns` a row; appears whole or not at all."""
    font = ImageFont.load_default(13)
    cells = [cell for members in parts.values() for cell in members]
    step_across, step_down = (max(extent) + GAP for extent in zip(*(cell.size for cell in cells), strict=True))
    rows = {heading: -(-len(members) // columns) for heading, members in parts.items()}
    height = sum(LINE + 2 * GAP + count * step_down for count in rows.values())
    picture = Image.new("RGB", (columns * step_across + GAP, height + GAP), "white")
    pen, top = ImageDraw.Draw(picture), GAP
    for heading, members in parts.items():
        pen.text((GAP, top), heading if members else f"{heading}: none", INK, font)
        top += LINE + 2 * GAP
        for number, member in enumerate(members):
            row, column = divmod(number, columns)
            picture.paste(member, (GAP + column * step_across, top + row * step_down))
        top += rows[heading] * step_down
    with replacing(file) as partial:
        picture.save(partial, "PNG")
