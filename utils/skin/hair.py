"""Hair on pictures of skin: found by black-hat morphology, painted over from its surroundings."""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

SMALLEST = 64  # pixels: on a smaller image a hair cannot be distinguished from noise
SEARCHED = 512  # pixels: a larger image is searched for hair at this shorter side
ACROSS, ALONG = 1 / 28, 1 / 7  # of the shorter side: a hair is thinner than the one, and straight for the other
SHORTEST = 0.6  # of ALONG: the least extent of a hair
DIRECTIONS, SPANNING = 8, 3  # lines across a hair, and how many of them must span it
CONTRAST = 12.0


def find_hair(image: NDArray[np.uint8], contrast: float = CONTRAST) -> NDArray[np.bool_]:
    """Where hair is: (H, W) of an image (H, W) or (H, W, 3); nowhere on one smaller than 64 pixels.

    A black-hat is the closing of an image less the image: dark details that the closing's kernel spans. A round kernel
    spans hairs, and nevi, dots and a lesion's pigment network as well. Here kernels are lines: hair is what some line
    of 1/28 of the shorter side spans (it is thin) but no line of 1/7 of it in any direction (it is long; 37 pixels of
    256), so whatever is round stays, large or small. Only color images' red is looked at, in which hair is dark and
    vessels are not.

    Hair is `contrast` (of 255) darker than its surroundings at some place, half as much at all, and extends over 3/5
    of the long line. Noise is lower after the longer lines of a larger image: above 256 pixels `contrast` shrinks with
    the root of the side.
    """
    side = min(image.shape[:2])
    if side < SMALLEST:
        return np.zeros(image.shape[:2], bool)
    red = np.ascontiguousarray(image[..., 0] if image.ndim == 3 else image)
    scale = min(1.0, SEARCHED / side)
    searched = cv2.resize(red, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else red
    side = min(searched.shape)
    limit = contrast * min(1.0, math.sqrt(256 / side))
    darker = _hairness(searched, _odd(ACROSS * side), _odd(ALONG * side))
    number, labels, boxes, _ = cv2.connectedComponentsWithStats((darker > limit / 2).astype(np.uint8), connectivity=8)
    darkest = np.zeros(number)
    np.maximum.at(darkest, labels.ravel(), darker.ravel())
    extent = boxes[:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]].max(1)
    is_hair = (darkest > limit) & (extent >= SHORTEST * ALONG * side)
    is_hair[0] = False  # what is not darker
    hair = is_hair[labels].astype(np.uint8)
    # A margin, for the hair's soft edge and shadow.
    hair = cv2.dilate(hair, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (_margin(side),) * 2))
    return cv2.resize(hair, image.shape[1::-1], interpolation=cv2.INTER_NEAREST).astype(bool)


def paint_over(image: NDArray[np.uint8], hair: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The image (H, W) or (H, W, 3) with `hair` (H, W) filled in from around it (Telea, J. Graphics Tools 2004)."""
    if not hair.any():
        return image
    radius = max(3, _margin(min(image.shape[:2])))
    return cv2.inpaint(np.ascontiguousarray(image), hair.astype(np.uint8), radius, cv2.INPAINT_TELEA)


def _hairness(gray: NDArray[np.uint8], across: int, along: int) -> NDArray[np.uint8]:
    """How much darker than beside it (H, W) uint8 is where it is thin and long."""
    gray = cv2.GaussianBlur(gray, (_margin(min(gray.shape)),) * 2, 0)
    closed = np.stack([_close(gray, across, angle) for angle in _angles(DIRECTIONS)])
    # Most lines span a hair; only those along its rim span the rim of a disc.
    thin = np.partition(closed, -SPANNING, axis=0)[-SPANNING]
    # Hairs thickened by a pixel on each side hold lines of a whole number of pixels that do not quite follow them.
    thick = cv2.erode(gray, np.ones((3, 3), np.uint8))
    enough = math.ceil(math.pi / 2 * along / 3)  # their ends are 3 pixels apart
    round_too = np.min([_close(thick, along, angle) for angle in _angles(enough)], axis=0)
    return cv2.subtract(thin, cv2.max(round_too, gray))


def _close(gray: NDArray[np.uint8], length: int, angle: float) -> NDArray[np.uint8]:
    """Closing with a line of `length` pixels."""
    reach = length // 2
    across, down = round(reach * math.cos(angle)), round(reach * math.sin(angle))
    kernel = np.zeros((length, length), np.uint8)
    cv2.line(kernel, (reach, reach), (reach + across, reach + down), 1)
    kernel |= kernel[::-1, ::-1]  # a closing of OpenCV's is one only with a kernel that is its own mirror image
    return cv2.morphologyEx(gray, cv2.MORPH_CLOSE, kernel)


def _angles(number: int) -> list[float]:
    return [math.pi * index / number for index in range(number)]


def _margin(side: int) -> int:
    """Pixels, odd: 3 at 256."""
    return _odd(side / 128 + 1)


def _odd(pixels: float) -> int:
    """The odd number next to `pixels`, at least 3."""
    return max(3, 2 * round((pixels - 1) / 2) + 1)
