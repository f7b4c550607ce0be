"""Small slices as pictures of a readable size: gray, with classes, with errors, with attention."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from utils.report.colors import CLASS_SHADES, FALSE_ALARM, HEAT, MISSED, OTHER_CLASS, OUTLINE, Shade

SIDE = 300  # pixels of a picture's longer side
MARGIN = 0.18  # of the foreground's extent, on each side of it
MOST = 0.85  # of a slice's sides: a frame of more is the whole slice
SMALLEST = 32  # pixels of a slice that are shown at least
Pixels = NDArray[np.uint8]


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


def frame_of(foreground: NDArray[np.bool_], spacing: tuple[float, float], whole: bool = False) -> Frame:
    """The frame about the foreground of a slice (H, W), or of all of it where there is none or it is wanted.

    It has the proportions of the slice, so that pictures of both have one shape; spacing: mm between rows and between
    columns, pictures keep the proportions in mm.
    """
    height, width = foreground.shape
    share = 1.0
    rows, columns = np.flatnonzero(foreground.any(1)), np.flatnonzero(foreground.any(0))
    if len(rows) and not whole:
        extents = (rows[-1] - rows[0] + 1) / height, (columns[-1] - columns[0] + 1) / width
        share = max(max(extents) * (1 + 2 * MARGIN), SMALLEST / min(height, width))
    if share > MOST:
        top, bottom, left, right = 0, height, 0, width
    else:
        top, bottom = _span((rows[0] + rows[-1] + 1) / 2, share * height, height)
        left, right = _span((columns[0] + columns[-1] + 1) / 2, share * width, width)
    scale = SIDE / max(height * spacing[0], width * spacing[1])
    size = max(1, round(height * spacing[0] * scale)), max(1, round(width * spacing[1] * scale))
    return Frame(top, bottom, left, right, size)


def _span(center: float, length: float, extent: int) -> tuple[int, int]:
    """A stretch about `center` within [0, extent), shifted rather than cut where it would leave it."""
    count = min(extent, round(length))
    start = min(max(0, round(center - count / 2)), extent - count)
    return start, start + count


def gray(image: NDArray, low: float, high: float, frame: Frame) -> Pixels:
    """Intensities (H, W) from low (black) to high (white), enlarged to (h, w, 3)."""
    shades = np.clip((image.astype(np.float32) - low) / max(high - low, 1e-6), 0, 1) * 255
    enlarged = _enlarge(frame.cut(shades).astype(np.uint8), frame.size, Image.Resampling.LANCZOS)
    return np.repeat(enlarged[..., None], 3, axis=2)


def with_classes(base: Pixels, labels: NDArray[np.integer], frame: Frame) -> Pixels:
    """Class numbers (H, W) over a picture: a tint and an edge for each."""
    enlarged = _labels(labels, frame)
    shown = base.copy()
    for value in np.unique(enlarged[enlarged > 0]):
        inside, shade = enlarged == value, CLASS_SHADES[(int(value) - 1) % len(CLASS_SHADES)]
        shown = _tint(shown, inside, shade, 0.42)
        shown = _tint(shown, _edge(inside), shade, 1.0)
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
    shown = base
    for value in np.unique(enlarged[enlarged > 0]):
        shown = _tint(shown, _edge(enlarged == value, 1), OUTLINE, 0.9)
    return shown


def with_heat(base: Pixels, attention: NDArray[np.floating], frame: Frame) -> Pixels:
    """Attention (H, W) in 0..1 over a picture, the more opaque the higher."""
    shares = frame.cut(attention).astype(np.float32)
    enlarged = np.asarray(Image.fromarray(shares).resize(frame.size[::-1], Image.Resampling.BILINEAR))
    places, shades = zip(*HEAT, strict=True)
    heat = np.stack([np.interp(enlarged, places, [shade[channel] for shade in shades]) for channel in range(3)], -1)
    opacity = (0.1 + 0.6 * np.clip(enlarged, 0, 1))[..., None]
    return ((1 - opacity) * base + opacity * heat).astype(np.uint8)


def framed(base: Pixels, whole: Frame, part: Frame) -> Pixels:
    """A whole slice's picture with a rectangle about the part that is shown beside it."""
    shown = base.copy()
    scale = (whole.size[0] / (whole.bottom - whole.top), whole.size[1] / (whole.right - whole.left))
    top, bottom = (min(round(row * scale[0]), whole.size[0] - 1) for row in (part.top, part.bottom))
    left, right = (min(round(column * scale[1]), whole.size[1] - 1) for column in (part.left, part.right))
    for row in (top, bottom):
        shown[row : row + 2, left : right + 1] = OUTLINE
    for column in (left, right):
        shown[top : bottom + 1, column : column + 2] = OUTLINE
    return shown


def _labels(labels: NDArray[np.integer], frame: Frame) -> NDArray[np.uint8]:
    return _enlarge(frame.cut(labels).astype(np.uint8), frame.size, Image.Resampling.NEAREST)


def _enlarge(array: Pixels, size: tuple[int, int], how: Image.Resampling) -> Pixels:
    return np.asarray(Image.fromarray(np.ascontiguousarray(array)).resize(size[::-1], how))


def _edge(inside: NDArray[np.bool_], width: int = 2) -> NDArray[np.bool_]:
    """Pixels inside that lie within `width` of the outside."""
    core = inside
    for _ in range(width):
        padded = np.pad(core, 1)
        core = core & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return inside & ~core


def _tint(base: Pixels, where: NDArray[np.bool_], shade: Shade, share: float) -> Pixels:
    shown = base.astype(np.float32)
    shown[where] = (1 - share) * shown[where] + share * np.array(shade, np.float32)
    return shown.astype(np.uint8)
