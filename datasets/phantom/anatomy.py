"""The abdomen around the kidneys: trunk, bones, organs, vessels and bowel, in HU that follow the contrast phase.

Coordinates in mm: x from the middle of the spine toward the patient's left, y from the middle of the vertebral body
toward the back, z from the height of the kidneys toward the feet.
"""

from dataclasses import dataclass

import numpy as np

from datasets.phantom.kidneys import Lesion, distance_to, draw_lesion
from datasets.phantom.shapes import Canvas, Field, capsule, coverage, ellipsoid, oval, repeat, smooth_max, smooth_min

SECONDS = (25, 40, 70, 100, 180)  # after the injection: arterial, corticomedullary, portal, nephrographic, excretory
PHASES = {
    "aorta": (320, 290, 170, 150, 120),
    "cava": (55, 95, 150, 150, 118),
    "cortex": (140, 190, 190, 178, 150),
    "medulla": (45, 85, 135, 165, 152),
    "liver": (58, 70, 110, 108, 92),
    "spleen": (95, 130, 125, 115, 98),
    "vein": (45, 80, 165, 150, 115),
    "muscle": (52, 56, 64, 64, 60),
    "urine": (6, 6, 10, 60, 280),
}


def draw_phase(rng: np.random.Generator, latest: float) -> dict[str, float]:
    """Mean HU of each tissue at a random time, 30 s to `latest` s after the injection, for a random dose."""
    seconds, dose = rng.uniform(30, latest), rng.uniform(0.85, 1.15)
    phase = {name: float(np.interp(seconds, SECONDS, values)) for name, values in PHASES.items()}
    return {name: value if name == "muscle" else 35 + (value - 35) * dose for name, value in phase.items()}


@dataclass
class Trunk:
    """Size of the trunk in mm: half its width, the y of its front and back, the thickness of the fat under the skin."""

    half_width: float
    front: float
    back: float
    fat: float


def draw_trunk(rng: np.random.Generator, half_width: float | None = None) -> Trunk:
    """A trunk of a random patient, slim to obese; `half_width` in mm where the picture fixes it."""
    if half_width is None:
        half_width = rng.uniform(145, 185)
    depth = 2 * half_width * rng.uniform(0.65, 0.77)
    fat = rng.uniform(8, 14) + max(half_width - 145, 0) * rng.uniform(0.15, 0.4)
    back = 64 + fat * 0.7 + rng.uniform(0, 8)
    return Trunk(half_width, back - depth, back, fat)


class Abdomen:
    """One patient without the kidneys: all that is random is drawn here, `paint_*` only look it up.

    `low` and `high` are the corners (z, y, x; mm) of the picture; `tumors` is how many the liver has.
    """

    def __init__(self, rng: np.random.Generator, phase: dict[str, float], trunk: Trunk, low, high, tumors: int) -> None:
        self.phase, self.trunk = phase, trunk
        self.bend_y, self.bend_x, self.bend_z = (Field(rng, low, high, pitch) for pitch in (60, 60, 70))
        self.large, self.bowel_a, self.bowel_b = (Field(rng, low, high, pitch) for pitch in (40, 24, 24))
        self.vessel_a, self.vessel_b, self.content = (Field(rng, low, high, pitch) for pitch in (16, 16, 30))
        self.small, self.fine = (Field(rng, low, high, pitch) for pitch in (9, 5))
        wall = rng.uniform(9, 12)
        front = trunk.front + trunk.fat * 0.9
        rear = trunk.back - trunk.fat * 0.6 - rng.uniform(28, 34)
        self.muscle_center = ((front + trunk.back - trunk.fat * 0.6) / 2, 0.0)
        self.muscle_radii = ((trunk.back - trunk.fat * 0.6 - front) / 2, trunk.half_width - trunk.fat)
        self.cavity_center = ((front + wall + rear) / 2, 0.0)
        self.cavity_radii = ((rear - front - wall) / 2, trunk.half_width - trunk.fat - wall)
        depth, width = self.cavity_radii
        middle = self.cavity_center[0]
        self.liver = [
            Lesion(
                (-62 + rng.uniform(-15, 15), middle + 0.02 * depth, -0.58 * width), (85, 0.8 * depth, 0.5 * width), 0
            ),
            Lesion(
                (-85 + rng.uniform(-12, 12), middle - 0.48 * depth, -0.08 * width), (45, 0.38 * depth, 0.5 * width), 0
            ),
        ]
        self.spleen = Lesion((-62 + rng.uniform(-12, 12), middle + 0.28 * depth, 0.74 * width), (48, 48, 27), 0)
        self.stomach = Lesion((-78 + rng.uniform(-10, 10), middle - 0.4 * depth, 0.34 * width), (42, 34, 50), 0)
        self.gallbladder = Lesion((-4 + rng.uniform(-12, 8), middle - 0.42 * depth, -0.4 * width), (26, 15, 15), 0)
        self.liver_tumors = [self._liver_lesion(rng, rng.uniform(6, 26)) for _ in range(tumors)]
        self.liver_cysts = [self._liver_lesion(rng, rng.uniform(3, 9)) for _ in range(int(rng.integers(0, 4)))]
        self.liver_tumor_hu = phase["liver"] + (rng.uniform(-50, -18) if rng.random() < 0.8 else rng.uniform(12, 30))
        self.bowel_contrast = rng.random() < 0.3
        self.gas_level = rng.uniform(0.5, 1.3)
        self.vertebra_phase, self.rib_phase = rng.uniform(-16, 16), rng.uniform(-13, 13)
        self.last_rib = rng.uniform(-30, 5)
        self.dome = rng.uniform(-150, -120)
        self.table = rng.uniform(7, 16)
        self.marrow = rng.uniform(130, 220)

    def _liver_lesion(self, rng: np.random.Generator, size: float) -> Lesion:
        direction = rng.standard_normal(3)
        direction *= rng.random() ** (1 / 3) * 0.8 / np.linalg.norm(direction)
        lobe = self.liver[int(rng.random() < 0.25)]
        center = tuple(float(c + d * r) for c, d, r in zip(lobe.center, direction, lobe.radii, strict=True))
        return draw_lesion(rng, center, size, 0.2, (0.10, 0.18))

    def canvas(self, axes: tuple[np.ndarray, np.ndarray, np.ndarray], pixel: float) -> Canvas:
        """A canvas of air over the grid spanned by `axes` (z, y, x; mm), its coordinates bent by some millimetres."""
        z, y, x = (axis.astype(np.float32) for axis in axes)
        bent_z = z[:, None, None] + np.float32(5) * self.bend_z(*axes)
        bent_y = y[None, :, None] + np.float32(3) * self.bend_y(*axes)
        bent_x = x[None, None, :] + np.float32(3) * self.bend_x(*axes)
        return Canvas(np.full(bent_z.shape, -1000, np.float32), bent_z, bent_y, bent_x, axes, pixel, 16.0)

    def paint(self, canvas: Canvas, kidney_depth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Paints all but the kidneys; returns the fractions of each voxel that are liver (tumors included) and tumor.

        `kidney_depth` (mm, positive inside) keeps a layer of fat around the kidneys.
        """
        y, x = canvas.y, canvas.x
        trunk = self.trunk
        large, small, fine = (name(*canvas.axes) for name in (self.large, self.small, self.fine))
        curve = trunk.back + self.table - np.square(x) / np.float32(900)
        flat = canvas.axes[1].astype(np.float32)[None, :, None]
        canvas.paint(np.abs(flat - curve) - np.float32(1.0), -250)
        center = ((trunk.front + trunk.back) / 2, 0.0)
        outer = oval(y, x, center, ((trunk.back - trunk.front) / 2, trunk.half_width))
        canvas.paint(outer, 25)
        canvas.paint(outer + 2, -104 + 5 * small)
        muscle = oval(y, x, self.muscle_center, self.muscle_radii)
        cavity = oval(y, x, self.cavity_center, self.cavity_radii)
        canvas.paint(cavity, -100 + 7 * small)
        self._paint_lungs(canvas, cavity)
        self._paint_bowel(canvas, cavity, small, fine)
        liver, tumor = self._paint_liver(canvas, cavity, large, small, fine)
        keep = coverage(kidney_depth + 3 + 2 * large, 2.5)
        canvas.blend((1 - keep) * coverage(cavity, canvas.pixel), -102 + 5 * small)
        tissue = self.phase["muscle"] + 4 * fine
        streaks = coverage(np.abs(large + 0.4 * small) - np.float32(0.10), 0.12) * coverage(-(cavity - 16), 8.0)
        tissue -= 110 * streaks
        canvas.paint(np.maximum(muscle, -cavity), tissue)
        self._paint_ribs(canvas, cavity)
        self._paint_spine(canvas, small)
        self._paint_vessels(canvas)
        return liver * keep, tumor * keep

    def _paint_lungs(self, canvas: Canvas, cavity: np.ndarray) -> None:
        if canvas.axes[0][0] > self.dome + 40:
            return
        z, y, x = canvas.z, canvas.y, canvas.x
        reach = np.abs(np.abs(x) - 0.5 * self.cavity_radii[1])
        top = z - self.dome + np.square(reach) / 120 - 25
        middle = self.cavity_center[0]
        mediastinum = oval(y, x, (middle + 5, 6), (0.95 * self.cavity_radii[0], 36))
        lung = smooth_max(np.maximum(top, cavity + 6), -mediastinum, 12)
        vessels = self._tubes(canvas, self.vessel_a, self.vessel_b, 0.12)
        canvas.paint(lung, -850 + 750 * coverage(vessels, canvas.pixel))
        heart = ellipsoid(z, y, x, (self.dome - 55, middle - 22, 24), (46, 40, 52))
        canvas.paint(heart, 30 + 0.5 * self.phase["aorta"])

    def _paint_bowel(self, canvas: Canvas, cavity: np.ndarray, small: np.ndarray, fine: np.ndarray) -> None:
        z, y, x = canvas.z, canvas.y, canvas.x
        content = self.content(*canvas.axes)
        vein = self.phase["vein"]
        root = np.maximum(np.maximum(cavity + 12, y + 26), -z - 60)
        canvas.paint(np.maximum(self._tubes(canvas, self.vessel_a, self.vessel_b, 0.13), root), vein)
        loops = self._tubes(canvas, self.bowel_a, self.bowel_b, 0.8) + 1.5 * fine
        zone = np.maximum(np.maximum(cavity + 7, y + 40 + np.abs(x) * 0.15), -z - 25)
        loops = np.maximum(loops, zone)
        width = self.cavity_radii[1]
        row = self.cavity_center[0] + 0.18 * self.cavity_radii[0]
        haustra = 3 * np.cos(z / np.float32(5)) + 3 * small
        colon = np.hypot(np.abs(x) - np.float32(width - 27), y - np.float32(row)) - 17 + haustra
        colon = np.maximum(colon, np.abs(z - 60) - np.float32(95))
        cross = (
            np.hypot((y - np.float32(self.cavity_center[0] - self.cavity_radii[0] + 30)) * 1.2, z - 20) - 15 + haustra
        )
        colon = smooth_min(colon, np.maximum(cross, np.abs(x) - np.float32(0.7 * width)), 8)
        colon = np.maximum(colon, cavity + 4)
        wall = 45 + 0.35 * (self.phase["liver"] - 45)
        stomach = ellipsoid(z, y, x, self.stomach.center, self.stomach.radii) + 2 * small
        stomach = np.maximum(stomach, cavity + 5)
        for shape, thick, level in ((loops, 2.8, -90.0), (colon, 2.2, row), (stomach, 4.5, self.stomach.center[1])):
            canvas.paint(shape, wall + 14 * fine)
            lumen = 18 + 12 * small
            if shape is colon:
                lumen = -20 + 55 * fine + 30 * small
            elif self.bowel_contrast:
                lumen = lumen + 230 * coverage(-content - np.float32(0.1), 0.6)
            # Gas collects in front of fluid; which loops hold any differs.
            slope = np.float32(0.8 if shape is stomach else 0.2)
            gas = 14 * (self.gas_level - content) + (y - np.float32(level)) * slope
            lumen = lumen + coverage(gas, 3.0) * (-950 - lumen)
            canvas.paint(shape + np.float32(thick), lumen)
        pancreas = capsule(z, y, x, (-8, -52, -30), (-34, -40, 75), 9) + 3 * small
        canvas.paint(np.maximum(pancreas, cavity + 5), self.phase["liver"] - 8 + 10 * fine)
        gallbladder = ellipsoid(z, y, x, self.gallbladder.center, self.gallbladder.radii) + small
        canvas.paint(np.maximum(gallbladder, cavity + 6), 9)

    def _paint_liver(self, canvas, cavity, large, small, fine) -> tuple[np.ndarray, np.ndarray]:
        z, y, x = canvas.z, canvas.y, canvas.x
        spleen = ellipsoid(z, y, x, self.spleen.center, self.spleen.radii) + 3 * large
        canvas.paint(np.maximum(spleen, cavity + 2.5), self.phase["spleen"] + 4 * fine + 5 * small)
        lobes = [ellipsoid(z, y, x, lobe.center, lobe.radii) for lobe in self.liver]
        shape = smooth_min(lobes[0], lobes[1], 25) + 4 * large + small
        lung = z - np.float32(self.dome - 30)
        shape = np.maximum(np.maximum(shape, cavity + 2.5), -lung)
        shape = np.maximum(shape, 26 - np.hypot(y - 4, x))
        liver = self.phase["liver"] + 3 * small + 3 * fine
        vessels = coverage(self._tubes(canvas, self.bowel_a, self.vessel_b, 0.13), canvas.pixel)
        liver += vessels * (self.phase["vein"] - liver) * np.float32(0.8)
        tumor, cyst = (distance_to(lesions, canvas, small, fine) for lesions in (self.liver_tumors, self.liver_cysts))
        liver += coverage(cyst, canvas.pixel) * (8 - liver)
        part = coverage(tumor, canvas.pixel)
        liver += part * (self.liver_tumor_hu + 13 * fine + 6 * small - liver)
        whole = canvas.paint(shape, liver)
        return whole, part * whole

    def _paint_ribs(self, canvas: Canvas, cavity: np.ndarray) -> None:
        z, y, x = canvas.z, canvas.y, canvas.x
        angle = np.arctan2(np.abs(x), y - np.float32(self.cavity_center[0]))  # 0 at the back
        start = z - 42 * angle - np.float32(self.rib_phase)
        height = repeat(start, 27.0)
        row = start - height
        end = np.where(row > self.last_rib - 27, 1.2, np.where(row > self.last_rib - 54, 1.7, 2.45))
        outside = np.maximum((angle - end) * 80, row - np.float32(self.last_rib))
        rib = np.maximum(np.hypot((cavity - 4.5) * 1.2, height) - 5.5, outside)
        canvas.paint(rib, 420)
        canvas.paint(rib + 2.5, self.marrow + 40)

    def _paint_spine(self, canvas: Canvas, small: np.ndarray) -> None:
        index = canvas.box((-1e6, -45, -130), (1e6, 85, 130))
        canvas = canvas.view(index)
        if canvas.empty:
            return
        z, y, x, muscle, small = canvas.z, canvas.y, canvas.x, self.phase["muscle"], small[index]
        for side in (-1, 1):  # the psoas grows toward the feet
            grow = np.clip((z + 70) / 110, 0.05, 1.2)
            psoas = oval(y, x, (4, side * 36), (20, 15)) + 14 * (1 - grow)
            canvas.paint(psoas, muscle + 3 * small)
        height = repeat(z - np.float32(self.vertebra_phase), 35.0)
        body = oval(y, x, (0, 0), (16.5, 23)) - 1.6 * np.square(height / 14)
        vertebra = np.maximum(body, np.abs(height) - 13.0)
        canvas.paint(body + 0.5, 85)
        canvas.paint(vertebra, 380)
        canvas.paint(vertebra + 2.2, self.marrow + 22 * small)
        ring = np.hypot(y - 26, x * 0.85)
        arch = np.maximum(np.maximum(ring - 14, np.abs(height) - 12), 12 - y)
        spinous = np.maximum(np.maximum(np.abs(x) - 3.2, np.abs(y - 50) - 15), np.abs(height - 4) - 10)
        wing = np.maximum(np.abs(y - 21 + 0.1 * np.abs(x)) - 4, np.abs(np.abs(x) - 25) - 15)
        wing = np.maximum(wing, np.abs(height + 2) - 7)
        facet = np.hypot(y - 33, np.abs(x) - 16) - 8 + 0.3 * np.abs(height - 14)
        bone = np.minimum(np.minimum(arch, spinous), np.minimum(wing, facet))
        canvas.paint(bone, 390)
        canvas.paint(bone + 2.6, self.marrow + 60)
        canvas.paint(np.hypot((y - 26) * 1.1, x * 0.9) - 8.5, 22)
        canvas.paint(np.hypot(y - 26, x) - 5, 38)
        if canvas.axes[0][-1] > 110:  # the iliac wings
            side = np.abs(x)
            blade = np.abs((side - 70) * 0.62 + (y + 2) * 0.78) - 4.5
            blade = np.maximum(np.maximum(blade, np.abs(side - 72) - np.clip((z - 120) * 0.8, -20, 42)), 125 - z)
            canvas.paint(blade, 420)
            canvas.paint(blade + 2.5, self.marrow + 30)

    def _paint_vessels(self, canvas: Canvas) -> None:
        index = canvas.box((-1e6, -60, -70), (1e6, 30, 70))
        canvas = canvas.view(index)
        if canvas.empty:
            return
        z, y, x, phase = canvas.z, canvas.y, canvas.x, self.phase
        for side in (-1, 1):
            vein = capsule(z, y, x, (-2.0, -30, -14), (2.0, -14, side * 52), 4.2)
            canvas.paint(vein, phase["cava"])
            artery = capsule(z, y, x, (-8.0, -26, 10), (-4.0, -8, side * 50), 2.6)
            canvas.paint(artery, phase["aorta"])
        canvas.paint(np.hypot((y + 27) * 1.25, x + 19) - 11.5, phase["cava"])
        aorta = np.hypot(y + 29, x - 9) - 10.5
        canvas.paint(aorta, phase["aorta"])
        calcified = coverage(np.float32(1.7) - self.content(*canvas.axes), 0.5)
        canvas.blend(calcified * coverage(np.abs(aorta + 0.5) - 1.0, canvas.pixel), 600)
        canvas.paint(np.hypot(y + 52, x - 4) - 3.5, phase["aorta"])
        canvas.paint(np.hypot(y + 52, x + 8) - 5.5, phase["vein"])

    def _tubes(self, canvas: Canvas, a: Field, b: Field, radius: float) -> np.ndarray:
        """Signed distance (mm, roughly) to branching tubes: where two fields vanish together."""
        return (np.hypot(a(*canvas.axes), b(*canvas.axes)) - np.float32(radius)) * np.float32(min(a.pitch, b.pitch))
