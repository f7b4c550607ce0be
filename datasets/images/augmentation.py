"""Random changes to training images: drawn for each image apart, carried out on a whole batch."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from datasets.batches.changes import at_a_time
from datasets.batches.moves import affine_matrices, view_count, warp_grid, warped
from datasets.images import color

# What is random about an image, a number from 0 to 1 for each.
COLUMNS = (
    *("mirror", "flip", "turns", "rotation", "scale", "across", "down", "brightness", "contrast", "saturation"),
    *("hue", "sharpness", "blur"),
)
CHANGES = ("matrices", "amounts")
COLORS = (color.brightness, color.contrast, color.saturation, color.hue, color.sharpness, color.blur)


@dataclass(frozen=True)
class Augmentation:
    """Random changes to a training image, in the order of the arguments; left out, an argument changes nothing.

    What was published, as recipes (where a paper says no more, the rest is left out):

    - HDKD: {flip: true, rotation: 180, brightness: 0.3, contrast: 0.3, sharpness: 2, blur: [0.1, 2]}; it
      blurs every image, so `blur` does.
    - ISIC 2024: {flip: true, rotation: 30, scale: [0.8, 1.2], brightness: 0.2, contrast: 0.2, saturation: 0.2}
    - a plain one for small images: {flip: true, rot90: true, scale: [0.9, 1.1], shift: 0.05}

    Flips and quarter turns move pixels and leave them as they are. Rotation, scale and shift are one bilinear
    resampling; what it needs from outside the image is mirrored at the border, not black: a network could learn a black
    corner. No value is rounded to whole steps between two changes.

    Args:
        flip: Left-right and up-down, each with probability 1/2.
        mirror: Left-right only, with probability 1/2: for images in which up and down differ.
        rot90: 0, 90, 180 or 270 degrees alike.
        rotation: Largest angle in degrees; uniform in -rotation to rotation.
        scale: Smallest and largest magnification, uniform between them; above 1 the content grows.
        shift: Largest shift along each axis, a fraction of the side.
        brightness: Factor uniform in 1 - brightness to 1 + brightness.
        contrast: The same about the mean gray of the image.
        saturation: The same about the gray image.
        hue: Largest turn of the hue circle, 0 to 0.5.
        sharpness: Factor: 1 leaves as it is, 2 sharpens, 0 smooths. With probability `sharpness_probability`.
        sharpness_probability: See sharpness.
        blur: Smallest and largest standard deviation, in pixels, of a Gaussian cut off at 3x3 pixels; always applied.

    Raises ValueError for a value out of range.
    """

    flip: bool = False
    mirror: bool = False
    rot90: bool = False
    rotation: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    shift: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    sharpness: float = 1.0
    sharpness_probability: float = 0.5
    blur: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        limits = {"rotation": 180.0, "shift": 0.5, "brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.5}
        for name, most in {**limits, "sharpness_probability": 1.0}.items():
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(f"augment.{name} {getattr(self, name):g} is out of range: give 0 to {most:g}")
        if self.sharpness < 0:
            raise ValueError(f"augment.sharpness {self.sharpness:g} is negative: 1 leaves the image as it is")
        for name, interval in (("scale", self.scale), ("blur", self.blur)):
            if interval is not None and not 0 < interval[0] <= interval[1]:
                raise ValueError(f"augment.{name} {list(interval)}: give [smallest, largest], both above 0")

    @property
    def views(self) -> int:
        """How many different images come of one; 0 where none comes twice."""
        is_exact = self == Augmentation(flip=self.flip, mirror=self.mirror, rot90=self.rot90)
        return view_count(2 if self.flip else int(self.mirror), self.rot90) if is_exact else 0

    def flips_and_turns(self, drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Whether rows, and columns, are reversed, bool (B, 2), and quarter turns (B,), of uniform numbers (B, 13)."""
        mirror, flip, turns = drawn.T[:3]
        down = (flip < 0.5) & self.flip
        across = (mirror < 0.5) & (self.flip or self.mirror)
        return np.stack((down, across), axis=1), (turns * (4 if self.rot90 else 0)).astype(np.int64)

    def changes(self, drawn: np.ndarray, side: int) -> dict[str, np.ndarray]:
        """What a call does to images of `side` pixels, of uniform numbers (B, 13).

        "matrices": float64 (B, 6), see `datasets.batches.moves.warp_grid`, where anything is resampled. "amounts":
        float32 (B, 6), how much each change of color does, in their order.
        """
        rotation, scale, across, down, brightness, contrast, saturation, hue, sharpness, blur = drawn.T[3:]
        amounts = [
            _within(brightness, 1 - self.brightness, 1 + self.brightness),
            _within(contrast, 1 - self.contrast, 1 + self.contrast),
            _within(saturation, 1 - self.saturation, 1 + self.saturation),
            _within(hue, -self.hue, self.hue),
            np.where(sharpness < self.sharpness_probability, self.sharpness, 1.0),
            _within(blur, *(self.blur or (1.0, 1.0))),
        ]
        changes = {"amounts": np.stack(amounts, axis=1).astype(np.float32)}
        if self.rotation or self.shift or self.scale != (1.0, 1.0):
            angles = np.deg2rad(_within(rotation, -self.rotation, self.rotation))
            scales = 1 / _within(scale, *self.scale)[:, None].repeat(2, axis=1)
            shifts = _within(np.stack((down, across), axis=1), -self.shift, self.shift) * side
            changes["matrices"] = affine_matrices(angles, scales, -shifts * scales)
        return changes

    def __call__(self, image: Tensor, changes: Mapping[str, Tensor]) -> Tensor:
        """Images (B, C, S, S) of 0 to 255, resampled and with other colors as `changes` says: float32."""
        count = at_a_time(image)
        pieces = [slice(start, start + count) for start in range(0, len(image), count)]
        parts = [
            self._changed(image[piece], {name: table[piece] for name, table in changes.items()}) for piece in pieces
        ]
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def _changed(self, image: Tensor, changes: Mapping[str, Tensor]) -> Tensor:
        if "matrices" in changes:
            image = warped(image, warp_grid(changes["matrices"], image.shape[2:]), "bilinear")
        else:
            image = image.float()
        asked = (self.brightness, self.contrast, self.saturation, self.hue, self.sharpness != 1, self.blur)
        for change, is_asked, amount in zip(COLORS, asked, changes["amounts"].unbind(1), strict=True):
            if is_asked:
                image = change(image, amount)
        return image


NO_AUGMENTATION = Augmentation()


def _within(numbers: np.ndarray, smallest: float, largest: float) -> np.ndarray:
    return smallest + numbers * (largest - smallest)
