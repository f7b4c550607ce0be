"""Small slices and images as pictures of a readable size: gray, with classes, with errors, with attention.

One palette for TensorBoard, the report and the sheets of scripts: colors that people with color-blindness can tell
apart (Okabe and Ito 2008).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from datasets.files import replacing

Shade = tuple[int, int, int]
CLASS_SHADES: tuple[Shade, ...] = (
    *((86, 180, 233), (230, 159, 0), (0, 158, 115), (204, 121, 167)),
    *((240, 228, 66), (213, 94, 0), (0, 114, 178)),
)
MISSED, FALSE_ALARM, OTHER_CLASS, OUTLINE = (64, 150, 255), (255, 106, 30), (240, 228, 66), (255, 255, 255)
RIGHT, WRONG, INK = (0, 115, 79), (176, 67, 0), (20, 20, 20)  # of text on white
# Attention is drawn from dark to light, even in lightness.
HEAT = ((0.0, (20, 11, 53)), (0.25, (87, 16, 110)), (0.5, (188, 55, 84)), (0.75, (249, 142, 9)), (1.0, (252, 255, 164)))

SIDE = 300  # pixels of a picture's longer side
MARGIN = 0.18  # of the foreground's extent, on each side of it
MOST = 0.85  # of a slice's sides: a larger frame becomes the whole slice
SMALLEST = 32  # pixels of a slice that are shown at least
LINE, GAP = 15, 4  # pixels of a line of text, and between pictures
FOUR_NEIGHBORS = ((-1, 0), (0, -1), (0, 1), (1, 0))
EIGHT_NEIGHBORS = (*FOUR_NEIGHBORS, (-1, -1), (-1, 1), (1, -1), (1, 1))
Pixels = NDArray[np.uint8]
Words = Sequence[tuple[str, Shade]]


@dataclass(frozen=True)
class Frame:
    """The part of a slice that is shown: rows and columns from, to; `size`: (height, width) of its picture."""

    top: int
    bottom: int
    left: int
    right: int
    size: tuple[int, int]

    def cut(self, array: NDArray) -> NDArray:
        return array[self.top : self.bottom, self.left : self.right]


def whole_frame(shape: tuple[int, int], spacing: tuple[float, float] = (1.0, 1.0), side: int = SIDE) -> Frame:
    """All of a slice (H, W), its picture in proportion to its extent in mm; side: the longer one, in pixels."""
    height, width = shape
    scale = side / max(height * spacing[0], width * spacing[1])
    size = max(1, round(height * spacing[0] * scale)), max(1, round(width * spacing[1] * scale))
    return Frame(0, height, 0, width, size)


def frame_of(foreground: NDArray[np.bool_], spacing: tuple[float, float]) -> Frame:
    """The frame about the foreground of a slice (H, W), or about the whole slice where there is no foreground.

    It has the proportions of the slice, so that pictures of both have one shape; spacing: mm between rows and between
    columns.
    """
    whole = whole_frame(foreground.shape, spacing)
    height, width = foreground.shape
    rows, columns = np.flatnonzero(foreground.any(1)), np.flatnonzero(foreground.any(0))
    if not len(rows):
        return whole
    extents = (rows[-1] - rows[0] + 1) / height, (columns[-1] - columns[0] + 1) / width
    share = max(max(extents) * (1 + 2 * MARGIN), SMALLEST / min(height, width))
    if share > MOST:
        return whole
    top, bottom = _span((rows[0] + rows[-1] + 1) / 2, share * height, height)
    left, right = _span((columns[0] + columns[-1] + 1) / 2, share * width, width)
    return Frame(top, bottom, left, right, whole.size)


def _span(center: float, length: float, extent: int) -> tuple[int, int]:
    """A stretch about `center` within [0, extent), shifted rather than cut where it would leave it."""
    count = min(extent, round(length))
    start = min(max(0, round(center - count / 2)), extent - count)
    return start, start + count


def gray(image: NDArray, low: float, high: float, frame: Frame) -> Pixels:
    """Intensities (H, W) from low (black) to high (white), enlarged to (h, w, 3)."""
    shades = np.clip((image.astype(np.float32) - low) / max(high - low, 1e-6), 0, 1) * 255
    enlarged = _resized(frame.cut(shades).astype(np.uint8), frame.size, Image.Resampling.LANCZOS)
    return np.repeat(enlarged[..., None], 3, axis=2)


def with_classes(base: Pixels, labels: NDArray[np.integer], frame: Frame) -> Pixels:
    """Class numbers (H, W) over a picture: a tint and an edge for each."""
    enlarged = _labels(labels, frame)
    edge = _edges(enlarged, EIGHT_NEIGHBORS)
    shown = base
    for value in np.unique(enlarged[enlarged > 0]):
        inside, shade = enlarged == value, CLASS_SHADES[(int(value) - 1) % len(CLASS_SHADES)]
        shown = _tint(_tint(shown, inside, shade, 0.42), inside & edge, shade, 1.0)
    return shown


def with_errors(base: Pixels, target: NDArray[np.integer], prediction: NDArray[np.integer], frame: Frame) -> Pixels:
    """What was missed, falsely found, or given another class, with the target's outline, (H, W) each."""
    wanted, answered = _labels(target, frame), _labels(prediction, frame)
    shown = _tint(base, np.ones(base.shape[:2], bool), (0, 0, 0), 0.35)
    for where, shade in (
        ((wanted > 0) & (answered == 0), MISSED),
        ((wanted == 0) & (answered > 0), FALSE_ALARM),
        ((wanted > 0) & (answered > 0) & (wanted != answered), OTHER_CLASS),
    ):
        shown = _tint(shown, where, shade, 0.8)
    return outlined(shown, target, frame)


def outlined(base: Pixels, labels: NDArray[np.integer], frame: Frame) -> Pixels:
    """A thin line about every class."""
    enlarged = _labels(labels, frame)
    edge = _edges(enlarged, FOUR_NEIGHBORS) & (enlarged > 0)
    return _tint(base, edge, OUTLINE, 0.9)


def with_heat(base: Pixels, attention: NDArray[np.floating], frame: Frame) -> Pixels:
    """Attention (H, W) in 0..1 over a picture, the more opaque the higher."""
    enlarged = _resized(frame.cut(attention).astype(np.float32), frame.size, Image.Resampling.BILINEAR)
    places, shades = [place for place, _ in HEAT], [shade for _, shade in HEAT]
    heat = np.stack([np.interp(enlarged, places, [shade[channel] for shade in shades]) for channel in range(3)], -1)
    opacity = (0.1 + 0.6 * np.clip(enlarged, 0, 1))[..., None]
    return ((1 - opacity) * base + opacity * heat).astype(np.uint8)


def framed(base: Pixels, whole: Frame, part: Frame) -> Pixels:
    """A whole slice's picture with a rectangle about the part that is shown beside it."""
    scale = np.array(whole.size) / (whole.bottom - whole.top, whole.right - whole.left)
    top, left = np.round((part.top, part.left) * scale).astype(int) + 1
    bottom, right = np.round((part.bottom, part.right) * scale).astype(int) - 1
    picture = Image.fromarray(base)
    ImageDraw.Draw(picture).rectangle((left, top, right, bottom), outline=OUTLINE, width=2)
    return np.asarray(picture)


def captioned(images: Sequence[Pixels], lines: Sequence[Words], side: int = 150) -> Pixels:
    """Images (H, W) or (H, W, 3) side by side, each in a square of `side` pixels, with lines of text below.

    A line is a sequence of (text, color). Of a line that is too long the middle is cut out.
    """
    font = ImageFont.load_default(11)
    width = len(images) * (side + GAP)
    picture = Image.new("RGB", (width, side + LINE * len(lines) + GAP), "white")
    for number, image in enumerate(images):
        shown = Image.fromarray(image).convert("RGB")
        scale = side / max(shown.size)
        way = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
        size = [max(1, round(scale * pixels)) for pixels in shown.size]
        picture.paste(shown.resize(size, way), (number * (side + GAP), 0))
    pen = ImageDraw.Draw(picture)
    for number, words in enumerate(lines):
        left = 0.0
        for text, ink in _shortened(words, width - GAP, font):
            pen.text((left, side + LINE * number), text, ink, font)
            left += font.getlength(text)
    return np.asarray(picture)


def _shortened(words: Words, width: float, font: ImageFont.FreeTypeFont) -> Words:
    """The words of a line; where they are wider than `width`, without the middle of the longest."""

    def fits(some: Words) -> bool:
        return sum(font.getlength(text) for text, _ in some) <= width

    longest = max(range(len(words)), key=lambda number: len(words[number][0]))
    text, ink = words[longest]
    for kept in range(len(text), -1, -1):
        short = text if kept == len(text) else f"{text[: kept // 2]}…{text[len(text) - (kept + 1) // 2 :]}"
        tried = [*words[:longest], (short, ink), *words[longest + 1 :]]
        if fits(tried):
            break
    return tried


def contact_sheet(parts: dict[str, Sequence[Pixels]], columns: int) -> Pixels:
    """One picture (H, W, 3): under each heading (where it is not empty) its cells, `columns` a row."""
    font = ImageFont.load_default(13)
    cells = [cell for members in parts.values() for cell in members]
    down, across = (max(cell.shape[axis] for cell in cells) + GAP for axis in (0, 1))
    blocks = []
    for heading, members in parts.items():
        above = LINE + 2 * GAP if heading else GAP
        rows = -(-len(members) // columns)
        block = Image.new("RGB", (columns * across + GAP, above + rows * down), "white")
        ImageDraw.Draw(block).text((GAP, GAP), heading if members else f"{heading}: none", INK, font)
        for number, member in enumerate(members):
            row, column = divmod(number, columns)
            block.paste(Image.fromarray(member), (GAP + column * across, above + row * down))
        blocks.append(np.asarray(block))
    return np.concatenate(blocks)


def write_png(file: Path, pixels: Pixels) -> None:
    """Write a picture whole or not at all."""
    with replacing(file) as partial:
        Image.fromarray(pixels).save(partial, "PNG")


def draw_confusion(counts: NDArray[np.integer], class_names: Sequence[str]) -> Pixels:
    """The confusion matrix (H, W, 3): a row for each target, a column for each answer, darker for a larger share of
    the row; numbers are images."""
    shares = row_shares(counts)
    font = ImageFont.load_default(12)
    margin, side, top = 36 + max(int(font.getlength(name)) for name in class_names), 52, 40
    # Columns are named by numbers: names side by side would overlap.
    picture = Image.new("RGB", (margin + len(class_names) * side, top + len(class_names) * side), "white")
    pen = ImageDraw.Draw(picture)
    pen.text((margin, 4), "answer (columns), target (rows)", INK, font)
    for row, name in enumerate(class_names):
        middle = top + side * row + side // 2
        pen.text((6, middle - 7), name, INK, font)
        pen.text((margin - 20, middle - 7), str(row + 1), INK, font)
        pen.text((margin + side * row + side // 2, 30), str(row + 1), INK, font, anchor="mm")
        for column in range(len(class_names)):
            left, upper, share = margin + side * column, top + side * row, shares[row, column]
            shade = tuple(round(255 - (255 - full) * share) for full in CLASS_SHADES[6])
            pen.rectangle((left, upper, left + side - 2, upper + side - 2), shade)
            ink = (255, 255, 255) if share > 0.5 else INK
            pen.text((left + side // 2, middle), str(counts[row, column]), ink, font, anchor="mm")
    return np.asarray(picture)


def row_shares(counts: NDArray[np.integer]) -> NDArray[np.floating]:
    """A confusion matrix as shares of each row's images; a row without images is all zeros."""
    return counts / np.maximum(counts.sum(1, keepdims=True), 1)


def image_pixels(image: NDArray[np.floating], mean: Sequence[float], std: Sequence[float]) -> Pixels:
    """A normalized image (C, H, W) as it was before: (H, W, 3)."""
    values = np.clip(image * np.reshape(std, (-1, 1, 1)) + np.reshape(mean, (-1, 1, 1)), 0, 1) * 255
    return np.ascontiguousarray(np.broadcast_to(values, (3, *values.shape[1:])).transpose(1, 2, 0).astype(np.uint8))


def css(shade: Shade) -> str:
    """A color as CSS writes it."""
    return f"rgb({shade[0]} {shade[1]} {shade[2]})"


def _labels(labels: NDArray[np.integer], frame: Frame) -> NDArray[np.uint8]:
    return _resized(frame.cut(labels).astype(np.uint8), frame.size, Image.Resampling.NEAREST)


def _edges(labels: NDArray[np.uint8], neighbors: Sequence[tuple[int, int]]) -> NDArray[np.bool_]:
    """Where one of these neighbors, given as (rows, columns) away, has another label; beyond the border none has."""
    height, width = labels.shape
    around = np.pad(labels, 1, mode="edge")
    edge = np.zeros(labels.shape, bool)
    for row, column in neighbors:
        edge |= around[1 + row : 1 + row + height, 1 + column : 1 + column + width] != labels
    return edge


def _resized(array: NDArray, size: tuple[int, int], how: Image.Resampling) -> NDArray:
    return np.asarray(Image.fromarray(np.ascontiguousarray(array)).resize(size[::-1], how))


def _tint(base: Pixels, where: NDArray[np.bool_], shade: Shade, share: float) -> Pixels:
    shown = base.astype(np.float32)
    shown[where] = (1 - share) * shown[where] + share * np.array(shade, np.float32)
    return shown.astype(np.uint8)
