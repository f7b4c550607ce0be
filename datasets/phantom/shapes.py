"""Shapes of the phantom: smooth random fields, signed distances in mm and soft (partial volume) painting.

Every array is ordered (slices, rows, columns) = (z, y, x) with z running superior -> inferior, y anterior -> posterior
and x patient right -> patient left, in mm. A signed distance is negative inside.
"""

from dataclasses import dataclass

import numpy as np

# A cubic B-spline over white noise has a mean square of 151 / 315 per axis; this brings it back to about N(0, 1).
_UNIT_GAIN = float((151 / 315) ** -1.5)


class Field:
    """Smooth random field of about zero mean and unit variance: a cubic B-spline over a lattice of white noise.

    `pitch` is the lattice's pitch in mm; neighboring blobs of the field lie about 2.5 pitches apart. `low` and `high`
    are the corners (z, y, x) in mm of the box the field covers; outside it the field repeats its border.
    """

    def __init__(self, rng: np.random.Generator, low: np.ndarray, high: np.ndarray, pitch: float) -> None:
        self.pitch = pitch
        self.low = np.asarray(low, dtype=np.float64) - pitch
        size = np.ceil((np.asarray(high) - self.low) / pitch).astype(int) + 3
        self.lattice = rng.standard_normal(tuple(np.maximum(size, 4)), dtype=np.float32)

    def __call__(self, z: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Values on the grid spanned by three vectors of coordinates in mm: float32 (len(z), len(y), len(x))."""
        places = [
            _Places((np.asarray(coordinates) - low) / self.pitch, length)
            for coordinates, low, length in zip((z, y, x), self.low, self.lattice.shape, strict=True)
        ]
        values = self.lattice[tuple(place.span for place in places)]  # of a block of slices that is little
        # Columns first: the array stays small until the last axis. No BLAS, so the bits do not depend on its threads.
        for axis in (2, 1, 0):
            values = places[axis].spline(values, axis)
        values *= np.float32(_UNIT_GAIN)
        return values


class _Places:
    """Positions along an axis of a lattice of `length` points, and the points `span` that they lie between."""

    def __init__(self, position: np.ndarray, length: int) -> None:
        position = np.clip(position, 1, length - 2.001)
        start = np.floor(position).astype(int)
        t = position - start
        self.weights = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
        self.span = slice(int(start.min()) - 1, int(start.max()) + 3)
        self.start = start - 1 - self.span.start

    def spline(self, values: np.ndarray, axis: int) -> np.ndarray:
        """Cubic B-spline along an axis of which `values` has the points of `span`."""
        shape = [1, 1, 1]
        shape[axis] = -1
        total = None
        for offset, weight in enumerate(self.weights):
            part = np.take(values, self.start + offset, axis=axis) * (weight / 6).astype(np.float32).reshape(shape)
            total = part if total is None else np.add(total, part, out=total)
        return total


@dataclass
class Canvas:
    """A block of the image under construction, with the coordinates of its voxels.

    `hu` is painted in place, float32 (S, H, W); `z`, `y`, `x` are the warped coordinates of each voxel in mm, which
    bend every shape that is painted through them; `axes` the straight ones; `pixel` the width in mm over which an edge
    is blurred.
    """

    hu: np.ndarray
    z: np.ndarray
    y: np.ndarray
    x: np.ndarray
    axes: tuple[np.ndarray, np.ndarray, np.ndarray]
    pixel: float
    bend: float

    def paint(self, distance: np.ndarray, value: np.ndarray | float) -> np.ndarray:
        """Blends `value` (HU) into the image where `distance` (mm) is negative; returns the fraction covered."""
        return self.blend(coverage(distance, self.pixel), value)

    def blend(self, fraction: np.ndarray, value: np.ndarray | float) -> np.ndarray:
        """Mixes `value` (HU) into the image by `fraction` of each voxel; returns the fraction."""
        self.hu += fraction * (value - self.hu)
        return fraction

    def box(self, low: np.ndarray, high: np.ndarray) -> tuple[slice, slice, slice]:
        """The index of the smallest block that holds the box from `low` to `high` (z, y, x; mm), bending included."""
        index = []
        for axis, (a, b) in zip(self.axes, zip(low, high, strict=True), strict=True):
            start = int(np.searchsorted(axis, a - self.bend - self.pixel))
            index.append(slice(start, max(int(np.searchsorted(axis, b + self.bend + self.pixel)), start)))
        return tuple(index)

    def view(self, index: tuple[slice, slice, slice]) -> "Canvas":
        """The block at `index`, sharing memory: painting on it paints here."""
        axes = tuple(axis[part] for axis, part in zip(self.axes, index, strict=True))
        return Canvas(self.hu[index], self.z[index], self.y[index], self.x[index], axes, self.pixel, self.bend)

    @property
    def empty(self) -> bool:
        return self.hu.size == 0


def coverage(distance: np.ndarray, width: float) -> np.ndarray:
    """Fraction of a voxel of `width` mm inside a surface at signed `distance` mm of its center (partial volume)."""
    fraction = distance * np.float32(-1 / width)
    fraction += np.float32(0.5)
    return np.clip(fraction, 0, 1, out=fraction)


def ellipsoid(
    z: np.ndarray, y: np.ndarray, x: np.ndarray, center: tuple[float, ...], radii: tuple[float, ...]
) -> np.ndarray:
    """Signed distance in mm to an ellipsoid, to first order (exact on the surface); `center`, `radii` are (z, y, x)."""
    parts = [np.square((p - np.float32(c)) / np.float32(r)) for p, c, r in zip((z, y, x), center, radii, strict=True)]
    level = np.sqrt(parts[0] + parts[1] + parts[2])
    slope = np.sqrt(sum(part / np.float32(r * r) for part, r in zip(parts, radii, strict=True)))
    return level * (level - 1) / np.maximum(slope, np.float32(1e-4))


def oval(y: np.ndarray, x: np.ndarray, center: tuple[float, float], radii: tuple[float, float]) -> np.ndarray:
    """Radial signed distance in mm to a slightly square oval in the axial plane (a trunk, a vertebral body)."""
    dy, dx = y - np.float32(center[0]), x - np.float32(center[1])
    u, v = np.square(dy / np.float32(radii[0])), np.square(dx / np.float32(radii[1]))
    level = np.sqrt(np.sqrt(u * u + v * v + np.float32(1.4) * u * v))
    return np.hypot(dy, dx) * (1 - 1 / np.maximum(level, np.float32(0.02)))


def capsule(
    z: np.ndarray, y: np.ndarray, x: np.ndarray, start: tuple[float, ...], end: tuple[float, ...], radius: float
) -> np.ndarray:
    """Signed distance in mm to a tube of `radius` from `start` to `end` (z, y, x)."""
    along = np.subtract(end, start, dtype=np.float32)
    offsets = [p - np.float32(s) for p, s in zip((z, y, x), start, strict=True)]
    t = sum(o * a for o, a in zip(offsets, along, strict=True)) / np.float32(np.square(along).sum())
    t = np.clip(t, 0, 1)
    return np.sqrt(sum(np.square(o - t * a) for o, a in zip(offsets, along, strict=True))) - np.float32(radius)


def smooth_max(a: np.ndarray, b: np.ndarray, blend: float) -> np.ndarray:
    """max(a, b) rounded over `blend` mm: the intersection of two shapes without a crease."""
    h = np.maximum(np.float32(blend) - np.abs(a - b), 0) / np.float32(blend)
    return np.maximum(a, b) + h * h * np.float32(blend / 4)


def smooth_min(a: np.ndarray, b: np.ndarray, blend: float) -> np.ndarray:
    """min(a, b) rounded over `blend` mm: the union of two shapes without a crease."""
    return -smooth_max(-a, -b, blend)


def repeat(position: np.ndarray, period: float) -> np.ndarray:
    """Position within its period, from -period / 2 to period / 2: one shape stands for a row of them."""
    return position - np.round(position / np.float32(period)) * np.float32(period)
