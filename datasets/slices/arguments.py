"""What the arguments of a dataset of slices may be."""

from collections.abc import Sequence

from datasets.slices.transforms import STRIDE, next_multiple

SPLITS = ("train", "val", "test")
TASKS = ("tumor", "organ", "all")
CROP_MODES = ("center", "foreground")


def choice(what: str, value: str, choices: Sequence[str]) -> str:
    """The value. Raises ValueError where it is none of the choices."""
    if value not in choices:
        raise ValueError(f"{what} {value!r} is unknown: choose from {', '.join(choices)}")
    return value


def check_cropping(crop: int | None, crop_mode: str) -> None:
    """Raises ValueError for a side that no network takes, and a mode that is unknown or needs a side."""
    if crop is not None and (crop <= 0 or crop % STRIDE):
        raise ValueError(f"crop {crop} is not a multiple of {STRIDE}: use {next_multiple(max(crop, 1))}, or null")
    if choice("crop_mode", crop_mode, CROP_MODES) == "foreground" and crop is None:
        raise ValueError("crop_mode foreground needs a crop: give its side in pixels, e.g. 384")


def check_shares(thin_background: float, labeled: float) -> None:
    """Raises ValueError where a share of the background slices or of the patients is out of range."""
    if not 0.0 <= thin_background <= 1.0:
        raise ValueError(f"thin_background {thin_background} is not a fraction: give a number from 0 to 1")
    if not 0.0 <= labeled <= 1.0:
        raise ValueError(f"labeled {labeled} is not a share of the patients: give a number from 0 to 1")
