"""Random changes to training slices, drawn for a batch at a time."""

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from datasets.batches.changes import add_noise, adjust_contrast, changed, chosen, scale_and_shift, warp
from datasets.batches.draws import KEY_BITS
from datasets.batches.moves import affine_matrices, view_count

AUGMENTATIONS = ("flip", "rot90", "affine", "intensity")
FLIP, AFFINE, INTENSITY = 0.5, 0.3, 0.15  # how likely each is
ANGLE, SCALE, SHIFT = np.pi / 12, 0.1, 1 / 16
GAMMA, FACTOR, OFFSET, NOISE = (0.7, 1.5), 0.1, 0.1, 0.05
# What each uniform number of a sample is for: those named after a change decide whether it is made
DRAWN = (
    *("pixel", "row", "column"),  # of the crop
    *("flip_rows", "flip_columns", "turns"),
    *("affine", "angle", "scale_rows", "scale_columns", "shift_rows", "shift_columns"),
    *("contrast", "gamma", "scale", "factor", "shift", "offset", "noise", "deviation", "key"),
)

Uniform = Mapping[str, np.ndarray]  # (B,) in [0, 1) for each of DRAWN


class Augment:
    """Changes that move image and target together, or the image alone; a choice of flip, rot90, affine and intensity.

    flip: each axis with probability 1/2. rot90: 0, 90, 180 or 270 degrees alike. affine: with probability 0.3, up to 15
    degrees, 10 % scale and 1/16 of the side in shift, mirrored at the border. intensity (of an image in [-1, 1] or
    z-scored): gamma 0.7 to 1.5, 10 % scale, 0.1 shift, noise of standard deviation up to 0.05, each with probability
    0.15. The order is this one, whatever the order of the names: geometry first, intensity last. All are defined as
    MONAI's RandFlipd, RandRotate90d, RandAffined, RandAdjustContrastd, RandScaleIntensityd, RandShiftIntensityd and
    RandGaussianNoised define them.

    Args:
        names: Of AUGMENTATIONS.
        side: Of the square training samples, in pixels.
    """

    def __init__(self, names: Sequence[str], side: int) -> None:
        for name in names:
            if name not in AUGMENTATIONS:
                raise ValueError(f"augment {name!r} is unknown: choose from {', '.join(AUGMENTATIONS)}")
        self.names, self.side = frozenset(names), side

    @property
    def views(self) -> int:
        """How many different images come of one; 0 where none comes twice."""
        is_exact = self.names <= {"flip", "rot90"}
        return view_count(2 * ("flip" in self.names), "rot90" in self.names) if is_exact else 0

    def flips(self, uniform: Uniform) -> np.ndarray:
        """Whether rows and columns are reversed, bool (B, 2)."""
        return (_columns(uniform, "flip_rows", "flip_columns") < FLIP) & ("flip" in self.names)

    def turns(self, uniform: Uniform) -> np.ndarray:
        """Quarter turns counterclockwise, (B,)."""
        return (uniform["turns"] * 4).astype(np.int64) * ("rot90" in self.names)

    def changes(self, uniform: Uniform) -> dict[str, np.ndarray]:
        """The tables that `apply_changes` wants (see `datasets.batches.changes.chosen`), without empty ones."""
        tables = {}
        if "affine" in self.names:
            matrices = affine_matrices(
                _within(uniform["angle"], ANGLE),
                1 + _within(_columns(uniform, "scale_rows", "scale_columns"), SCALE),
                _within(_columns(uniform, "shift_rows", "shift_columns"), SHIFT * self.side),
            )
            tables["affine"] = chosen(uniform["affine"] < AFFINE, matrices)
        if "intensity" in self.names:
            contrast, scale, shift, noise = (uniform[k] < INTENSITY for k in ("contrast", "scale", "shift", "noise"))
            gamma = GAMMA[0] + uniform["gamma"] * (GAMMA[1] - GAMMA[0])
            factor = np.where(scale, 1 + _within(uniform["factor"], FACTOR), 1)
            offset = np.where(shift, _within(uniform["offset"], OFFSET), 0)
            key = np.floor(uniform["key"] * 2**KEY_BITS)
            tables["contrast"] = chosen(contrast, gamma)
            tables["linear"] = chosen(scale | shift, factor, offset)
            tables["noise"] = chosen(noise, uniform["deviation"] * NOISE, key)
        return {name: table for name, table in tables.items() if len(table)}


def apply_changes(image: Tensor, target: Tensor, tables: Mapping[str, Tensor], maps: Tensor | None = None) -> None:
    """Change those images and targets (B, 1, H, W) of a batch that the tables of `Augment.changes` name, in place.

    maps: (B, C, H, W), which move as the image does.
    """
    if "affine" in tables:
        changed((image, target) if maps is None else (image, target, maps), tables["affine"], warp)
    for name, change in (("contrast", adjust_contrast), ("linear", scale_and_shift), ("noise", add_noise)):
        if name in tables:
            changed((image,), tables[name], change)


def _columns(uniform: Uniform, *names: str) -> np.ndarray:
    return np.stack([uniform[name] for name in names], axis=1)


def _within(uniform: np.ndarray, limit: float) -> np.ndarray:
    """From [0, 1) to [-limit, limit)."""
    return (2 * uniform - 1) * limit
