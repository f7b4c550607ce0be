"""Kidneys of the phantom with their tumors and cysts, drawn or shaped by a label volume.

Both sources answer the same question for a block of the image, `KidneyMap`; `paint_kidneys` turns the answer into HU.
Tumors overlap cortex and medulla in HU on purpose: they differ in shape, texture and context.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from datasets.phantom.shapes import Canvas, Field, coverage, ellipsoid, smooth_max

FAR = 60.0  # mm: the distance reported away from the kidneys, where its value no longer matters
CYST_ROUGHNESS = (0.03, 0.09)


@dataclass
class KidneyMap:
    """Where kidney tissue lies in a block: fractions of each voxel and depths in mm below the surface.

    `union` counts kidney, tumor and cyst; `tumor` and `cyst` are fractions of that union; `depth` is measured from the
    outer surface of the union (positive inside), `tumor_depth` from the tumor's.
    """

    union: np.ndarray
    tumor: np.ndarray
    cyst: np.ndarray
    depth: np.ndarray
    tumor_depth: np.ndarray


@dataclass
class Lesion:
    """A tumor or cyst: an ellipsoid (z, y, x; mm) whose surface is roughened by `roughness` of its mean radius,
    at most 2.4 mm: more would fold it."""

    center: tuple[float, float, float]
    radii: tuple[float, float, float]
    roughness: float

    def distance(self, canvas: Canvas, coarse: np.ndarray, fine: np.ndarray) -> np.ndarray:
        """Signed distance in mm; `coarse` and `fine` are values of the two roughness fields on the canvas."""
        bump = np.float32(min(self.roughness * np.mean(self.radii), 2.4)) * (coarse + np.float32(0.3) * fine)
        return ellipsoid(canvas.z, canvas.y, canvas.x, self.center, self.radii) + bump


def draw_lesion(
    rng: np.random.Generator, center: tuple[float, float, float], size: float, spread: float, rough: tuple[float, float]
) -> Lesion:
    """A lesion with radii of `size` (mm) up to `spread` of it more or less, its roughness drawn from a range."""
    radii = tuple(size * rng.uniform(1 - spread, 1 + spread, 3))
    return Lesion(center, radii, float(rng.uniform(*rough)))


def distance_to(lesions: Iterable[Lesion], canvas: Canvas, coarse: np.ndarray, fine: np.ndarray) -> np.ndarray:
    """Signed distance in mm to the nearest of these lesions, at most `FAR`."""
    nearest = np.full(canvas.hu.shape, FAR, np.float32)
    for lesion in lesions:
        nearest = np.minimum(nearest, lesion.distance(canvas, coarse, fine))
    return nearest


@dataclass
class Kidney:
    """One drawn kidney: `side` -1 is the patient's right; lengths in mm, `turn` in radians (hilum looks forward)."""

    side: int
    center: tuple[float, float, float]
    radii: tuple[float, float, float]
    turn: float
    lean: float
    tumors: list[Lesion] = field(default_factory=list)
    cysts: list[Lesion] = field(default_factory=list)

    def local(self, z: np.ndarray, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Coordinates along the kidney's own axes: length, thickness, width (positive toward the hilum)."""
        dz, dy = z - np.float32(self.center[0]), y - np.float32(self.center[1])
        dx = (x - np.float32(self.center[2])) * -self.side + np.float32(self.lean) * dz
        c, s = np.float32(np.cos(self.turn)), np.float32(np.sin(self.turn))
        return dz, c * dy + s * dx, c * dx - s * dy

    def surface_point(self, direction: np.ndarray, depth: float) -> tuple[float, float, float]:
        """The point (z, y, x) `depth` mm below the surface in a local unit `direction` (length, thickness, width)."""
        radii = np.array(self.radii)
        u, v, w = direction * (1 / np.linalg.norm(direction / radii) - depth)
        c, s = np.cos(self.turn), np.sin(self.turn)
        dy, dx = c * v - s * w, s * v + c * w
        return (
            float(self.center[0] + u),
            float(self.center[1] + dy),
            float(self.center[2] - self.side * (dx - self.lean * u)),
        )


def draw_kidney(rng: np.random.Generator, side: int) -> Kidney:
    """A kidney without lesions; the right one lies lower, the upper poles lean to the spine."""
    center = (rng.uniform(-8, 8) + (6 if side < 0 else -6), rng.uniform(-10, 0), side * rng.uniform(60, 70))
    radii = (rng.uniform(48, 60), rng.uniform(23, 28), rng.uniform(27, 32))
    return Kidney(side, center, radii, float(rng.uniform(0.4, 0.9)), float(rng.uniform(0.1, 0.25)))


def draw_lesions(rng: np.random.Generator, kidneys: list[Kidney], tumor: bool) -> None:
    """Gives the kidneys tumors (one, sometimes two) and cysts, exophytic or endophytic, away from the spine's side."""
    count = (1 + int(rng.random() < 0.35)) if tumor else 0
    for _ in range(count):
        kidney = kidneys[int(rng.integers(2))]
        size = float(np.exp(rng.uniform(np.log(13), np.log(28))))
        depth = size * (rng.uniform(-0.35, 0.15) if rng.random() < 0.6 else rng.uniform(0.5, 1.0))
        center = kidney.surface_point(_direction(rng), depth)
        kidney.tumors.append(draw_lesion(rng, center, size, 0.15, (0.10, 0.17)))
    for kidney in kidneys:
        for _ in range(int(rng.integers(0, 4))):
            size = float(np.exp(rng.uniform(np.log(3.5), np.log(14))))
            center = kidney.surface_point(_direction(rng), size * rng.uniform(-0.3, 1.0))
            kidney.cysts.append(draw_lesion(rng, center, size, 0.2, CYST_ROUGHNESS))


def _direction(rng: np.random.Generator) -> np.ndarray:
    while True:
        direction = rng.standard_normal(3)
        direction /= np.linalg.norm(direction)
        if direction[2] < 0.25:  # not at the hilum
            return direction


class DrawnKidneys:
    """Both kidneys as shapes: ellipsoids with a hilum, lobulated, with roughened tumors and cysts."""

    def __init__(self, rng: np.random.Generator, tumor: bool) -> None:
        self.kidneys = [draw_kidney(rng, -1), draw_kidney(rng, 1)]
        draw_lesions(rng, self.kidneys, tumor)
        points = [(k.center, k.radii[0]) for k in self.kidneys]
        points += [(lesion.center, max(lesion.radii) * 1.5) for k in self.kidneys for lesion in k.tumors + k.cysts]
        self.low = np.min([np.array(center) - radius for center, radius in points], axis=0) - 6
        self.high = np.max([np.array(center) + radius for center, radius in points], axis=0) + 6
        self.tumor_radius = max((np.mean(t.radii) for k in self.kidneys for t in k.tumors), default=0.0)
        self.coarse, self.fine = (Field(rng, self.low, self.high, pitch) for pitch in (13.0, 6.0))

    def map(self, canvas: Canvas) -> KidneyMap:
        """The kidneys on a block."""
        z, y, x = canvas.z, canvas.y, canvas.x
        coarse, fine = self.coarse(*canvas.axes), self.fine(*canvas.axes)
        body = np.full(canvas.hu.shape, FAR, np.float32)
        for kidney in self.kidneys:
            u, v, w = kidney.local(z, y, x)
            outer = ellipsoid(u, v, w, (0, 0, 0), kidney.radii) + np.float32(1.3) * coarse
            notch_radii = (kidney.radii[0] * 0.42, kidney.radii[1] * 0.36, kidney.radii[2] * 0.75)
            notch = ellipsoid(u, v, w, (0, 0, kidney.radii[2] * 0.95), notch_radii) + np.float32(1.5) * fine
            body = np.minimum(body, smooth_max(outer, -notch, 5))
        tumor = distance_to([lesion for kidney in self.kidneys for lesion in kidney.tumors], canvas, coarse, fine)
        cyst = distance_to([lesion for kidney in self.kidneys for lesion in kidney.cysts], canvas, coarse, fine)
        union = np.minimum(np.minimum(body, tumor), cyst)
        tumor_part = coverage(tumor, canvas.pixel)
        cyst_part = coverage(cyst, canvas.pixel) * (1 - tumor_part)
        return KidneyMap(coverage(union, canvas.pixel), tumor_part, cyst_part, -union, -tumor)


class LabelKidneys:
    """Both kidneys as a label volume has them: fractions on the image's grid, distances on a coarser one.

    `fractions(start, stop)` gives (3, stop - start, H, W) float32, the part of each voxel that is kidney, tumor and
    cyst, for slices of the image; `axes` are the image's coordinates in mm. `coarse` (3, s, h, w) are the same
    fractions on a grid of `coarse_axes`. Cysts are added within the kidney, as KiTS19 labels count cysts as kidney.
    """

    def __init__(self, rng, fractions, axes, coarse, coarse_axes) -> None:
        self.fractions, self.axes = fractions, axes
        filled = coarse.sum(0) > 0.5
        if not filled.any():
            filled = coarse.sum(0) >= max(float(coarse.sum(0).max()), 1e-3)
        index = np.nonzero(filled)
        spacing = [float(axis[1] - axis[0]) if len(axis) > 1 else 1.0 for axis in coarse_axes]
        margin = [int(np.ceil(12 / s)) for s in spacing]
        part = tuple(slice(max(i.min() - m, 0), i.max() + m + 1) for i, m in zip(index, margin, strict=True))
        self.coarse_axes = [axis[p] for axis, p in zip(coarse_axes, part, strict=True)]
        self.low = np.array([axis[0] for axis in self.coarse_axes])
        self.high = np.array([axis[-1] for axis in self.coarse_axes])
        tumor = coarse[1][part] > 0.5
        self.depth = _signed_depth(filled[part], spacing)
        self.tumor_depth = _signed_depth(tumor, spacing)
        self.tumor_radius = float(max(self.tumor_depth.max(), 0))
        kidney = np.argwhere((coarse[0][part] > 0.5) & (self.depth < 10))
        self.cysts = []
        for _ in range(int(rng.integers(0, 6)) if len(kidney) else 0):
            place = kidney[int(rng.integers(len(kidney)))]
            center = tuple(float(axis[i]) for axis, i in zip(self.coarse_axes, place, strict=True))
            size = float(np.exp(rng.uniform(np.log(3), np.log(11))))
            self.cysts.append(draw_lesion(rng, center, size, 0.2, CYST_ROUGHNESS))
        self.rough_coarse, self.rough_fine = (Field(rng, self.low, self.high, pitch) for pitch in (13.0, 6.0))

    def map(self, canvas: Canvas) -> KidneyMap:
        """The kidneys on a block."""
        start = np.searchsorted(self.axes[1], canvas.axes[1][0]), np.searchsorted(self.axes[2], canvas.axes[2][0])
        rows, columns = (slice(s, s + len(axis)) for s, axis in zip(start, canvas.axes[1:], strict=True))
        # Two heights within one slice share that slice's fractions: they hold the partial volume already.
        slices = np.abs(self.axes[0][:, None] - canvas.axes[0]).argmin(0)
        fractions = self.fractions(slices.min(), slices.max() + 1)[:, slices - slices.min(), rows, columns]
        union = np.clip(fractions.sum(0), 0, 1)
        safe = np.maximum(union, np.float32(1e-3))
        cyst = np.full(union.shape, FAR, np.float32)
        if self.cysts:
            coarse, fine = self.rough_coarse(*canvas.axes), self.rough_fine(*canvas.axes)
            z, y, x = (axis.astype(np.float32) for axis in canvas.axes)
            straight = Canvas(
                canvas.hu, z[:, None, None], y[None, :, None], x[None, None], canvas.axes, canvas.pixel, 0.0
            )
            cyst = distance_to(self.cysts, straight, coarse, fine)
        added = np.minimum(coverage(cyst, canvas.pixel), fractions[0] / safe)
        depth = [self._interpolate(values, canvas.axes) for values in (self.depth, self.tumor_depth)]
        return KidneyMap(union, fractions[1] / safe, np.maximum(added, fractions[2] / safe), depth[0], depth[1])

    def _interpolate(self, values: np.ndarray, axes: tuple[np.ndarray, ...]) -> np.ndarray:
        for number, axis in enumerate(axes):
            position = np.interp(axis, self.coarse_axes[number], np.arange(values.shape[number]))
            start = np.minimum(position.astype(int), max(values.shape[number] - 2, 0))
            stop = np.minimum(start + 1, values.shape[number] - 1)
            shape = [1, 1, 1]
            shape[number] = -1
            t = (position - start).astype(np.float32).reshape(shape)
            values = np.take(values, start, number) * (1 - t) + np.take(values, stop, number) * t
        return values


def _signed_depth(inside: np.ndarray, spacing: list[float]) -> np.ndarray:
    if not inside.any():
        return np.full(inside.shape, -FAR, np.float32)
    depth = ndimage.distance_transform_edt(inside, spacing) - ndimage.distance_transform_edt(~inside, spacing)
    return depth.astype(np.float32)


class KidneyTissue:
    """What kidneys, tumors and cysts of one case look like: HU means by contrast phase, textures, necrosis."""

    def __init__(self, rng: np.random.Generator, phase: dict[str, float], low, high, tumor_radius: float) -> None:
        self.phase = phase
        self.cortex_depth = rng.uniform(5.5, 8)
        self.pyramids = Field(rng, low, high, 7.0)
        self.calyces = Field(rng, low, high, 8.0)
        self.blobs = Field(rng, low, high, rng.uniform(4.5, 7.5))
        self.grain = Field(rng, low, high, 3.0)
        cortex, medulla = phase["cortex"], phase["medulla"]
        self.tumor_hu = medulla + rng.uniform(-0.2, 0.3) * (cortex - medulla) - rng.uniform(10, 65)
        self.tumor_contrast = rng.uniform(26, 40)
        self.cyst_hu = rng.uniform(0, 20)
        self.sinus_hu = rng.uniform(-50, 0)
        necrotic = tumor_radius > 11 and rng.random() < 0.5
        self.necrosis_depth = rng.uniform(0.3, 0.55) * tumor_radius if necrotic else FAR
        self.necrosis_hu = rng.uniform(15, 40)

    def paint(self, canvas: Canvas, kidneys: KidneyMap) -> None:
        """Paints the tissue of `kidneys` on the canvas."""
        axes, phase = canvas.axes, self.phase
        grain, blobs, pyramids = self.grain(*axes), self.blobs(*axes), self.pyramids(*axes)
        medulla = coverage(self.cortex_depth - kidneys.depth, 3.0) * coverage(-pyramids - np.float32(0.35), 0.5)
        hu = phase["cortex"] + medulla * (phase["medulla"] - phase["cortex"]) + 5 * grain
        sinus = coverage(np.float32(13.5) - kidneys.depth - 2 * grain, 3.0)
        calyx = sinus * coverage(np.float32(0.5) - self.calyces(*axes), 0.6)
        hu += sinus * np.float32(0.5) * (self.sinus_hu - hu)
        hu += calyx * (phase["urine"] - hu)
        hu += kidneys.cyst * (self.cyst_hu - hu)
        tumor = self.tumor_hu + np.float32(self.tumor_contrast) * blobs + 8 * grain
        dead = coverage(self.necrosis_depth - kidneys.tumor_depth - 3 * pyramids, 5.0)
        tumor += dead * (self.necrosis_hu - tumor)
        hu += kidneys.tumor * (tumor - hu)
        canvas.blend(kidneys.union, hu)
