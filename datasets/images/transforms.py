"""What happens to a labeled image between the file and the network: size, channels, augmentation, normalization."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter

NORMALIZATIONS = {  # mean and standard deviation of values in [0, 1]
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
MINIMUM_SIZE = 8


@dataclass(frozen=True)
class Preparation:
    """How a stored image becomes the network's input, the same for training, evaluation and prediction.

    The whole image is resized to a square (bilinear, antialiased): nothing is cut away, and an image that is not square
    changes its proportions.

    Args:
        image_size: Side of the square in pixels.
        in_channels: 3 (a gray image is repeated) or 1 (a color image becomes its luma, ITU-R 601).
        mean: Subtracted from values in [0, 1], one a channel.
        std: Then divided by, one a channel.
    """

    image_size: int
    in_channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def resize(self, image: np.ndarray) -> np.ndarray:
        """uint8 (H, W), (H, W, 1) or (H, W, 3) -> uint8 (image_size, image_size, in_channels)."""
        picture = Image.fromarray(image[..., 0] if image.shape[2:] == (1,) else image)
        picture = picture.convert("RGB" if self.in_channels == 3 else "L")
        side = self.image_size
        if picture.size != (side, side):
            picture = picture.resize((side, side), Image.Resampling.BILINEAR)
        return np.asarray(picture).reshape(side, side, self.in_channels)

    def normalize(self, image: np.ndarray) -> torch.Tensor:
        """uint8 (H, W, C) -> float32 (C, H, W)."""
        scale = [1 / (255 * std) for std in self.std]
        shift = [-mean / std for mean, std in zip(self.mean, self.std, strict=True)]
        values = image.transpose(2, 0, 1).astype(np.float32)
        values *= np.array(scale, np.float32)[:, None, None]
        values += np.array(shift, np.float32)[:, None, None]
        return torch.from_numpy(values)


def preparation(image_size: int, in_channels: Literal[1, 3], normalization: str) -> Preparation:
    """The Preparation of a named normalization; a single channel has the mean of the three channels' statistics.

    Raises ValueError for a size that is too small, and for an unknown number of channels or name.
    """
    if image_size < MINIMUM_SIZE:
        raise ValueError(f"image_size {image_size} is too small: give a side of at least {MINIMUM_SIZE} pixels")
    if in_channels not in (1, 3):
        raise ValueError(f"in_channels {in_channels}: images have 3 channels (color) or 1 (gray)")
    if normalization not in NORMALIZATIONS:
        raise ValueError(f"normalization {normalization!r} is unknown: choose from {', '.join(NORMALIZATIONS)}")
    mean, std = NORMALIZATIONS[normalization]
    if in_channels == 1:
        mean, std = (round(sum(mean) / 3, 3),), (round(sum(std) / 3, 3),)
    return Preparation(image_size, in_channels, mean, std)


@dataclass(frozen=True)
class Augmentation:
    """Random changes to a training image, in the order of the arguments; left out, an argument changes nothing.

    What was published, as recipes (where a paper says no more, the rest is left out):

    - HDKD: {flip: true, rotation: 180, brightness: 0.3, contrast: 0.3, sharpness: 2, blur: [0.1, 2]}; it
      blurs every image, so `blur` does.
    - ISIC 2024: {flip: true, rotation: 30, scale: [0.8, 1.2], brightness: 0.2, contrast: 0.2, saturation: 0.2}
    - a plain one for small images: {flip: true, rot90: true, scale: [0.9, 1.1], shift: 0.05}

    Rotation, scale and shift are one bilinear resampling; what it needs from outside the image is mirrored at the
    border, not black: a network could learn a black corner.

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

    def __call__(self, image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """uint8 (S, S, C) -> uint8 (S, S, C); draws from `generator` alone."""
        if (self.flip or self.mirror) and generator.random() < 0.5:
            image = image[:, ::-1]
        if self.flip and generator.random() < 0.5:
            image = image[::-1]
        if self.rot90:
            image = np.rot90(image, generator.integers(4))
        if self.rotation or self.shift or self.scale != (1.0, 1.0):
            image = self._move(image, generator)
        color = image.shape[2] == 3
        picture = Image.fromarray(np.ascontiguousarray(image if color else image[..., 0]))
        for kind, amount in (
            (ImageEnhance.Brightness, self.brightness),
            (ImageEnhance.Contrast, self.contrast),
            (ImageEnhance.Color, self.saturation if color else 0.0),
        ):
            if amount:
                picture = kind(picture).enhance(generator.uniform(1 - amount, 1 + amount))
        if self.hue and color:
            picture = _turn_hue(picture, generator.uniform(-self.hue, self.hue))
        if self.sharpness != 1 and generator.random() < self.sharpness_probability:
            picture = ImageEnhance.Sharpness(picture).enhance(self.sharpness)
        if self.blur is not None:
            picture = _blur(picture, generator.uniform(*self.blur))
        return np.asarray(picture).reshape(image.shape)

    def _move(self, image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Rotate, scale and shift about the center, mirrored at the border."""
        side = image.shape[0]
        angle = np.deg2rad(generator.uniform(-self.rotation, self.rotation))
        magnification = generator.uniform(*self.scale)
        across, down = generator.uniform(-self.shift, self.shift, 2) * side
        cosine, sine = np.cos(angle) / magnification, np.sin(angle) / magnification
        reach = (abs(cosine) + abs(sine)) * (side / 2 + max(abs(across), abs(down)))
        margin = max(0, int(np.ceil(reach - side / 2))) + 1  # one more for the bilinear neighbor
        wide = np.pad(image, ((margin, margin), (margin, margin), (0, 0)), "reflect")
        picture = Image.fromarray(wide[..., 0] if image.shape[2] == 1 else wide)
        # Pillow wants, for a pixel of the result, where it comes from.
        center = side / 2 + margin
        column, row = side / 2 + across, side / 2 + down
        matrix = (
            *(cosine, sine, center - cosine * column - sine * row),
            *(-sine, cosine, center + sine * column - cosine * row),
        )
        moved = picture.transform((side, side), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
        return np.asarray(moved).reshape(image.shape)


NO_AUGMENTATION = Augmentation()


def _turn_hue(picture: Image.Image, turn: float) -> Image.Image:
    hue, saturation, value = picture.convert("HSV").split()
    step = round(turn * 256)
    hue = hue.point([(level + step) % 256 for level in range(256)])
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")


def _blur(picture: Image.Image, sigma: float) -> Image.Image:
    """Gaussian of 3x3 pixels; Pillow's kernel filter leaves the outermost pixels as they are."""
    side = float(np.exp(-0.5 / sigma**2))
    weights = [side, 1.0, side]
    kernel = [row * column for row in weights for column in weights]
    return picture.filter(ImageFilter.Kernel((3, 3), kernel))


def generator_of(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The random numbers of one sample in one epoch, the same in any process; Philox starts in microseconds."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch << 32 | index]))


def as_json(preparation: Preparation) -> dict[str, Any]:
    """Plain values; `Preparation(**as_json(preparation))` is the same again but for lists."""
    return {
        "image_size": preparation.image_size,
        "in_channels": preparation.in_channels,
        "mean": list(preparation.mean),
        "std": list(preparation.std),
    }
