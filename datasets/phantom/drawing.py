"""A seeded CT phantom of the abdomen for tests, demonstrations and where real images may not travel.

The HU, shapes and noise are plausible, not physical: no projections are simulated. Everything random in a case comes
from (seed, case number), so a case does not change with the number of cases or of processes. Arrays are (slices, H,
W), slice 0 the most superior, rows anterior -> posterior, columns patient right -> left: the order of the KiTS files.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from datasets.phantom.anatomy import Abdomen, draw_phase, draw_trunk
from datasets.phantom.kidneys import DrawnKidneys, KidneyTissue, LabelKidneys
from datasets.phantom.labels import LabelReduction

_BLOCK_VOXELS = 600_000  # painted at a time: small enough for the cache, whatever the size of the volume
_THICK = 2.4  # mm: above it a slice is the mean of two heights


@dataclass
class Phantom:
    """One case: `image` int16 HU and `label` uint8, both (slices, H, W); `spacing` (slice, row, column) in mm."""

    image: np.ndarray
    label: np.ndarray
    spacing: tuple[float, float, float]


def draw_phantom(
    seed: int,
    case: int,
    slices: int = 32,
    size: int = 128,
    organ: str = "kidney",
    classes: str = "kits19",
    tumor_free: float = 0.0,
) -> Phantom:
    """Draws case number `case` of the phantom `seed` on a grid of `slices` x `size` x `size`.

    organ "kidney": labels 1 kidney, 2 tumor, and with classes "kits23" 3 cyst (with "kits19" a cyst counts as kidney).
    organ "liver": labels 1 liver, 2 liver tumor, the picture centered higher. `tumor_free` is the chance of a case
    without tumor. Raises ValueError for an unknown organ or classes, or a size too small to show anything.
    """
    if organ not in ("kidney", "liver"):
        raise ValueError(f"organ {organ!r} is unknown: use 'kidney' or 'liver'")
    _check_classes(classes)
    if slices < 1 or size < 16:
        raise ValueError(f"{slices} slices of {size} x {size} are too few: use at least 1 slice and a size of 16")
    rng = _generator(seed, case, 0)
    tumor = rng.random() >= tumor_free
    trunk = draw_trunk(rng)
    scale = rng.uniform(0.92, 1.1)  # of the whole patient
    field_of_view = 2 * trunk.half_width * scale * rng.uniform(1.03, 1.22)
    spacing = (rng.uniform(140, 175) * scale / slices, field_of_view / size, field_of_view / size)
    middle = (trunk.front + trunk.back) / 2
    center = np.array([-50.0 if organ == "liver" else 0.0, middle + 6, 0.0]) + rng.uniform(-7, 7, 3)
    shape = (slices, size, size)
    axes = tuple(c + (np.arange(n) - (n - 1) / 2) * s / scale for c, n, s in zip(center, shape, spacing, strict=True))
    phase = draw_phase(rng, latest=150)
    kidneys = DrawnKidneys(_generator(seed, case, 1), tumor and organ == "kidney")
    tissue = KidneyTissue(_generator(seed, case, 2), phase, kidneys.low, kidneys.high, kidneys.tumor_radius)
    tumors = int(rng.integers(1, 6)) if tumor and organ == "liver" else 0
    abdomen = Abdomen(_generator(seed, case, 3), phase, trunk, *_corners(axes), tumors)
    image, label = _render(axes, abdomen, kidneys, tissue, organ, spacing[0], _Noise(seed, case, axes))
    if classes == "kits19":
        label[label == 3] = 1
    return Phantom(image, label, spacing)


def render_around(
    label: np.ndarray,
    spacing: tuple[float, float, float],
    seed: int,
    case: int,
    classes: str = "kits19",
    size: int | None = None,
    every: int = 1,
) -> Phantom:
    """Renders a CT around real kidneys: `label` (slices, H, W) holds 1 kidney, 2 tumor and maybe 3 cyst, spacing in mm.

    `size` is the number of columns (or rows, whichever is larger) of the result and `every` how many slices are
    averaged into one; the label of a coarser voxel is that of the largest part of it. Without them the label comes
    back as it was given (3 becomes 1 with classes "kits19"). Raises ValueError for a label that holds other values or
    no kidney.
    """
    _check_classes(classes)
    reduction = LabelReduction(label, spacing, size, every)
    rng = _generator(seed, case, 0)
    coarse = reduction
    if min(reduction.spacing) < 2:  # distances need no finer grid than this
        longest = max(label.shape[1:])
        coarse = LabelReduction(
            label, spacing, min(max(int(longest * spacing[1] / 2.5), 16), longest), int(2.5 / spacing[0])
        )
    origin, half_width, front, back = _place_spine(coarse, rng)
    axes = tuple(a - o for a, o in zip(reduction.axes, origin, strict=True))
    coarse_axes = tuple(a - o for a, o in zip(coarse.axes, origin, strict=True))
    trunk = draw_trunk(rng, half_width)
    trunk.front = min(trunk.front, front - trunk.fat - 18)
    trunk.back = max(trunk.back, back + trunk.fat * 0.6 + 24)
    phase = draw_phase(rng, latest=110)
    kidneys = LabelKidneys(_generator(seed, case, 1), reduction.fractions, axes, coarse.all_fractions(), coarse_axes)
    tissue = KidneyTissue(_generator(seed, case, 2), phase, kidneys.low, kidneys.high, kidneys.tumor_radius)
    abdomen = Abdomen(_generator(seed, case, 3), phase, trunk, *_corners(axes), 0)
    noise = _Noise(seed, case, axes)
    image, painted = _render(axes, abdomen, kidneys, tissue, "kidney", reduction.spacing[0], noise)
    result = reduction.label()
    if classes == "kits19":
        result[result == 3] = 1
    else:
        result[(result == 1) & (painted == 3)] = 3
    return Phantom(image, result, reduction.spacing)


def _render(axes, abdomen: Abdomen, kidneys, tissue: KidneyTissue, organ: str, thickness: float, noise: "_Noise"):
    """Paints block after block, so that memory holds little but the result: image int16 and label uint8."""
    heights = 2 if thickness > _THICK else 1
    step = float(axes[0][1] - axes[0][0]) if len(axes[0]) > 1 else thickness
    pixel = 1.15 * float(axes[2][1] - axes[2][0])
    shape = tuple(len(axis) for axis in axes)
    image, label = np.empty(shape, np.int16), np.empty(shape, np.uint8)
    count = max(_BLOCK_VOXELS // (shape[1] * shape[2] * heights), 1)
    for start in range(0, shape[0], count):
        part = slice(start, min(start + count, shape[0]))
        offsets = (np.arange(heights) - (heights - 1) / 2) * step / heights
        block_axes = ((axes[0][part, None] + offsets).ravel(), axes[1], axes[2])
        hu, found = _paint_block(block_axes, pixel, abdomen, kidneys, tissue, organ)
        hu = hu.reshape(-1, heights, *shape[1:]).mean(1)
        found = found.reshape(len(found), -1, heights, *shape[1:]).mean(2)
        for number, clean in enumerate(hu, start):
            image[number] = np.clip(np.rint(clean + noise(number, clean)), -1024, 3071)
        background = 1 - found.sum(0, keepdims=True)
        label[part] = np.argmax(np.concatenate([background, found]), axis=0)
    return image, label


def _paint_block(axes, pixel: float, abdomen: Abdomen, kidneys, tissue: KidneyTissue, organ: str):
    canvas = abdomen.canvas(axes, pixel)
    depth = np.full(canvas.hu.shape, -60, np.float32)
    index = canvas.box(kidneys.low, kidneys.high)
    inner = canvas.view(index)
    if not inner.empty:
        found = kidneys.map(inner)
        depth[index] = found.depth
    liver, tumor = abdomen.paint(canvas, depth)
    nothing = np.zeros((3, *canvas.hu.shape), np.float32)
    fractions = np.stack([liver - tumor, tumor]) if organ == "liver" else nothing
    if not inner.empty:
        tissue.paint(inner, found)
        if organ == "liver":
            fractions[(slice(None), *index)] *= 1 - found.union
        else:
            kidney = np.maximum(1 - found.tumor - found.cyst, 0)
            fractions[(slice(None), *index)] = np.stack([kidney, found.tumor, found.cyst]) * found.union
    return canvas.hu, fractions


class _Noise:
    """Noise like that of a reconstruction: grain wider than a pixel, no mean over a wide area, strongest mid-trunk."""

    def __init__(self, seed: int, case: int, axes) -> None:
        rng = _generator(seed, case, 4)
        level, self.grain = rng.uniform(8, 15), rng.uniform(0.55, 0.9)
        impulse = np.zeros((33, 33), np.float32)
        impulse[16, 16] = 1
        gain = level / np.sqrt(np.square(_grain(impulse, self.grain)).sum())
        y, x = axes[1][:, None] + 20, axes[2][None, :]
        shade = 0.75 + 0.5 * np.exp(-(np.square(x / 110) + np.square(y / 80)))
        self.strength = (gain * shade).astype(np.float32)
        self.seed, self.case = seed, case
        self.last = (-1, self._layer(-1))

    def __call__(self, number: int, clean: np.ndarray) -> np.ndarray:
        """The noise of slice `number`, whose image without noise is `clean` (HU)."""
        previous = self.last[1] if self.last[0] == number - 1 else self._layer(number - 1)
        current = self._layer(number)
        self.last = (number, current)
        noise = np.float32(0.92) * current + np.float32(0.39) * previous  # neighboring slices overlap
        # Air is quiet: there the reconstruction has little to add up.
        return noise * self.strength * np.clip((clean + 1000) / 900 + np.float32(0.35), 0, 1)

    def _layer(self, number: int) -> np.ndarray:
        rng = _generator(self.seed, self.case, 5, number + 1)
        return _grain(rng.standard_normal(self.strength.shape, dtype=np.float32), self.grain)


def _grain(white: np.ndarray, sigma: float) -> np.ndarray:
    fine = ndimage.gaussian_filter(white, sigma, mode="wrap")
    return fine - np.float32(0.7) * ndimage.gaussian_filter(white, 3 * sigma, mode="wrap")


def _place_spine(
    coarse: LabelReduction, rng: np.random.Generator
) -> tuple[tuple[float, float, float], float, float, float]:
    """From a label volume, in mm: where the spine lies (z, y, x), half the width the trunk needs, and how far kidneys
    and tumors reach to the front and to the back of the spine's middle."""
    fractions = coarse.all_fractions()
    kidney = np.nonzero(fractions[0] > 0.5)
    if not len(kidney[0]):
        kidney = np.nonzero(fractions[0] >= fractions[0].max())
    z, y, x = (axis[i] for axis, i in zip(coarse.axes, kidney, strict=True))
    middle = float(coarse.axes[2].mean())
    sides = [x[x < middle], x[x >= middle]]
    spine = middle
    if min(len(side) for side in sides) > 0.15 * len(x):
        spine = 0.5 * middle + 0.25 * (sides[0].mean() + sides[1].mean())
    origin = ((float(z.min()) + float(z.max())) / 2, float(y.mean()) + 4, float(spine))
    width = coarse.axes[2][-1] - coarse.axes[2][0]
    reach, front, back = 0.0, -40.0, 40.0
    _, rows, columns = np.nonzero(fractions.sum(0) > 0.5)
    if len(rows):
        reach = float(np.abs(coarse.axes[2][columns] - spine).max())
        front, back = (float(coarse.axes[1][row]) - origin[1] for row in (rows.min(), rows.max()))
    half_width = float(np.clip(width / 2 * rng.uniform(0.84, 0.97), max(130, reach + 28), max(215, reach + 28)))
    return origin, half_width, front, back


def _corners(axes) -> tuple[np.ndarray, np.ndarray]:
    return np.array([axis[0] for axis in axes]) - 3, np.array([axis[-1] for axis in axes]) + 3


def _generator(seed: int, case: int, *part: int) -> np.random.Generator:
    return np.random.default_rng([seed, case, *part])


def _check_classes(classes: str) -> None:
    if classes not in ("kits19", "kits23"):
        raise ValueError(f"classes {classes!r} is unknown: use 'kits19' (cysts are kidney) or 'kits23' (cysts are 3)")
