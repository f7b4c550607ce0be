"""Image files and their bytes as arrays; what cannot be read is named in one line."""

import re
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from datasets.files import describe, ending
from datasets.scan import Scan, scan

SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".tif", ".tiff", ".webp"}
READERS = 8
NAMED = 5  # bad images that one message names
GRAY = {"1", "L", "LA", "La"}
COLOR = {"P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"}
DEEP = re.compile(r";16[BLN]?$")  # Pillow's names of channels of 16 bits, of which it would keep 8; BGR;16 is not one

# Pillow warns of damaged EXIF and of large images, in two lines that do not name the file. Images that are refused are
# named below with their file; the others are read.
warnings.filterwarnings("ignore", module="PIL")


class UnreadableImageError(ValueError):
    """An image that cannot be used: one line with the file, the fault and the remedy."""


def scan_images(folder: Path) -> Scan:
    """The images below a folder, at any depth, by their endings; everything else is passed over."""
    found = scan(folder)
    found.keep(lambda file: ending(file) in SUFFIXES, "ending")
    return found


def decode(source: Path | bytes, name: str) -> np.ndarray:
    """uint8 (H, W) of a gray image, (H, W, 3) of any other, turned upright as its EXIF orientation says.

    Transparency is dropped: a pixel keeps the color that is stored for it. Raises UnreadableImageError, naming `name`,
    for a file that is not an image, is damaged, has more than 8 bits a channel, several frames, or too many pixels.
    """
    with opened(source, name) as picture:
        _refuse_fault(picture, name)
        picture.load()
        try:
            upright = ImageOps.exif_transpose(picture)
        except Exception:  # its EXIF is damaged, its pixels are not
            upright = picture
        return np.asarray(upright.convert("L" if picture.mode in GRAY else "RGB"))


def check_readable(files: Sequence[Path]) -> None:
    """Raise ValueError naming the files that are not images, by their headers only."""
    with ThreadPoolExecutor(READERS) as pool:
        refuse_any([problem for problem in pool.map(_problem, files) if problem])


def refuse_any(problems: Sequence[str]) -> None:
    """Raise ValueError in one line where there is a problem, naming the first five."""
    if problems:
        more = f"; and {len(problems) - NAMED} more" if len(problems) > NAMED else ""
        many = f"{len(problems)} images or folders cannot be used: " if len(problems) > 1 else ""
        raise ValueError(f"{many}{'; '.join(problems[:NAMED])}{more}")


def _problem(file: Path) -> str | None:
    try:
        with opened(file, str(file)) as picture:
            _refuse_fault(picture, str(file))
            return None
    except UnreadableImageError as error:
        return str(error)


@contextmanager
def opened(source: Path | bytes, name: str) -> Iterator[Image.Image]:
    """An image whose header can be read; whatever goes wrong with it becomes an UnreadableImageError."""
    try:
        with Image.open(BytesIO(source) if isinstance(source, bytes) else source) as picture:
            yield picture
    except UnreadableImageError:
        raise
    except Image.DecompressionBombError:
        most = 2 * Image.MAX_IMAGE_PIXELS
        raise UnreadableImageError(f"{name}: has over {most:,} pixels: scale it down, or remove it") from None
    except MemoryError:
        raise UnreadableImageError(f"{name}: is too large for this machine's memory: scale it down") from None
    except Exception as error:  # for damaged files Pillow's readers raise almost any kind
        if isinstance(error, OSError) and error.errno:
            raise UnreadableImageError(describe(error, name)) from None
        reason = " ".join(str(error).split())
        if isinstance(error, UnidentifiedImageError):
            size = len(source) if isinstance(source, bytes) else source.stat().st_size
            reason = "Pillow knows no such format" if size else "it is empty"
        raise UnreadableImageError(f"{name}: unreadable image ({reason}): restore it, or remove it") from None


def _refuse_fault(picture: Image.Image, name: str) -> None:
    if fault := _fault(picture):
        raise UnreadableImageError(f"{name}: {fault}")


def _fault(picture: Image.Image) -> str | None:
    """Why an image that can be opened cannot be used; None where it can."""
    raw = [part for tile in picture.tile for part in (tile.args if isinstance(tile.args, tuple) else [tile.args])]
    if picture.mode[0] in "IF" or any(isinstance(part, str) and DEEP.search(part) for part in raw if part != "BGR;16"):
        return f"has more than 8 bits a channel ({picture.mode}): write it with 8"
    if picture.mode not in GRAY | COLOR:
        return f"is stored in the color mode {picture.mode}: write it as RGB"
    frames = 1 if picture.format == "MPO" else getattr(picture, "n_frames", 1)  # MPO: a photo and its previews
    if frames > 1:
        return f"holds {frames} frames: write the one you mean to a file of its own, or remove it"
    return None
