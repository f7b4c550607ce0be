"""Image files and their bytes as arrays; what cannot be read is named in one line."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}
READERS = 8


def decode(source: Path | bytes, name: str) -> np.ndarray:
    """uint8 (H, W) of a gray image, (H, W, 3) of any other; transparency is dropped.

    Raises ValueError, naming `name`, for what is no image, is damaged, or has more than 8 bits a channel.
    """
    try:
        with Image.open(BytesIO(source) if isinstance(source, bytes) else source) as picture:
            if picture.mode[0] in "IF":
                raise ValueError(f"{name}: has more than 8 bits a channel ({picture.mode}): write it with 8")
            return np.asarray(picture.convert("L" if picture.mode in ("1", "L", "LA") else "RGB"))
    except (OSError, SyntaxError) as error:  # Pillow calls damaged PNG a syntax error
        raise ValueError(f"{name}: unreadable image ({error}): restore it, or remove it") from None


def check_readable(files: Sequence[Path]) -> None:
    """Raise ValueError naming the files that are no images, by their headers only."""
    with ThreadPoolExecutor(READERS) as pool:
        bad = [file for file, good in zip(files, pool.map(_has_header, files), strict=True) if not good]
    if bad:
        listed = ", ".join(str(file) for file in bad[:5]) + (f" and {len(bad) - 5} more" if len(bad) > 5 else "")
        raise ValueError(f"{listed}: unreadable image{'s' * (len(bad) > 1)}: restore or remove")


def _has_header(file: Path) -> bool:
    try:
        with Image.open(file):
            return True
    except (OSError, SyntaxError):
        return False
