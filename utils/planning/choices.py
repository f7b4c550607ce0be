"""What follows from a fingerprint for the data and the schedule of a recipe, each value with its reason."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from datasets.slices.transforms import next_multiple
from utils.planning.fingerprint import CaseFacts, Fingerprint, pixel

ALIKE = 0.1  # lengths that differ by no more count as one
BODIES = 0.25  # by so much bodies differ as well, and augmentation scales by another tenth
CONTEXT = 1.25  # a crop's side, in sides of the foreground's box
SMALLEST_CROP = 64  # the networks halve an image five times: it ends as 2x2
SMALL_CROP, LARGE_BATCH, BATCH, SMALLEST_BATCH = 64, 32, 16, 8
STEPS_AN_EPOCH = 20
EPOCHS, STEPS, MOST_EPOCHS = 20, 2000, 200
LEARNING_RATE = 2.0e-3  # of a batch of BATCH
COARSER_BY = 1.1  # than what there is, at least: less spares nothing
NARROWEST = 100.0  # HU
THINNEST = 0.05
FAR = 4.0  # sides of a pixel: a slice farther off shows something else
PLACED = 2.0  # standard deviations that lie between classes of a fixed order


@dataclass(frozen=True)
class Choice:
    """A value of a recipe, and the sentence that says why."""

    value: Any
    why: str


@dataclass(frozen=True)
class PixelGrid:
    """In what pixels training and prediction work.

    Args:
        spacing: mm that SliceMaker.py is to resample to; None where the pixels of the store or the source are taken.
        slice_spacing: mm of the slabs that it is to average slices into; None where each slice is taken.
    """

    spacing: float | None = None
    slice_spacing: float | None = None

    def factors(self, case: CaseFacts) -> tuple[float, float]:
        """How many pixels of the grid a row's and a column's pixel become."""
        if self.spacing is None or case.spacing is None:
            return 1.0, 1.0
        return case.spacing[1] / self.spacing, case.spacing[2] / self.spacing

    def size(self, case: CaseFacts) -> tuple[int, int]:
        """Rows and columns of a case's slices."""
        rows, columns = self.factors(case)
        return max(1, round(case.shape[1] * rows)), max(1, round(case.shape[2] * columns))

    def slices(self, case: CaseFacts) -> int:
        """How many slices of a case are stored: slabs, where its slices are thinner."""
        if self.slice_spacing is None or case.spacing is None:
            return case.shape[0]
        return -(-case.shape[0] // max(1, round(self.slice_spacing / case.spacing[0])))

    def pixel(self, fingerprint: Fingerprint) -> float | None:
        """mm of a pixel; None where nobody knows."""
        return self.spacing or fingerprint.in_plane


def choose_spacing(fingerprint: Fingerprint) -> Choice:
    """mm in plane to resample to: the median of the training cases, or None where their pixels are alike."""
    found = [size for case in fingerprint.training if (size := pixel(case)) is not None]
    if not found:
        return Choice(None, "the store knows no millimeters, so its pixels are taken as they are")
    if fingerprint.spacing is not None:
        return Choice(None, f"the store is resampled to {fingerprint.spacing:g} mm already")
    return median_spacing(found)


def median_spacing(found: Sequence[float]) -> Choice:
    """mm in plane to resample to: the median of these pixels, or None where they are alike."""
    low, middle, high = min(found), statistics.median(found), max(found)
    if high <= (1 + BODIES) * middle and low >= (1 - BODIES) * middle:
        span = (
            f"{low:.2f} mm" if high - low < 0.005 else f"{low:.2f} to {high:.2f} mm, which differ less than bodies do,"
        )
        return Choice(None, f"pixels measure {span} in all training cases: they are taken as they are")
    rounded = round(middle, 2)
    return Choice(
        rounded, f"pixels measure {low:.2f} to {high:.2f} mm in the training cases; {rounded:g} is their median"
    )


def choose_window(fingerprint: Fingerprint) -> Choice:
    """The window of CT by what the foreground holds; None is a z-score of each case."""
    if fingerprint.modality != "CT":
        return Choice(None, f"intensities of {fingerprint.modality} have no unit: each case is z-scored")
    low, high = fingerprint.percentiles
    why = (
        f"0.5 and 99.5 percentile of the HU within the foreground of {len(fingerprint.with_foreground)} training cases"
    )
    if high - low < NARROWEST:
        middle = (low + high) / 2
        low, high = middle - NARROWEST / 2, middle + NARROWEST / 2
        why += f", widened to {NARROWEST:g} HU, below which noise would fill it"
    return Choice([math.floor(low), math.ceil(high)], why)


def crop_of(fingerprint: Fingerprint, grid: PixelGrid) -> tuple[Choice, Choice]:
    """The side of a training crop, and how it is placed."""
    boxes = [(case, case.foreground.box, grid.factors(case)) for case in fingerprint.with_foreground]
    side = max(max((box[2] - box[0]) * rows, (box[3] - box[1]) * columns) for _, box, (rows, columns) in boxes)
    largest = max(max(grid.size(case)) for case in fingerprint.training)
    crop = min(max(SMALLEST_CROP, next_multiple(math.ceil(CONTEXT * side))), next_multiple(largest))
    size = grid.pixel(fingerprint)
    shown = f"{side:.0f} pixels" + (f" ({side * size:.0f} mm)" if size else "")
    why = f"the foreground of a case is up to {shown} wide, with a quarter more around it, in steps of 32"
    if crop == next_multiple(largest):
        why += f"; slices are no larger than {largest}"
    elif crop == SMALLEST_CROP:
        why += f", but at least {SMALLEST_CROP}, which networks bring down to 2x2"
    reach = 0.0  # twice the distance of the farthest edge of a box from its slice's center
    for case, box, factors in boxes:
        for axis in (0, 1):
            middle = case.shape[axis + 1] / 2
            reach = max(reach, 2 * factors[axis] * max(middle - box[axis], box[axis + 2] - middle))
    if reach <= crop:
        return Choice(crop, why), Choice("center", "a crop of the center holds the foreground of every training case")
    return Choice(crop, why), Choice(
        "foreground",
        f"the center would have to be {reach:.0f} pixels wide to hold the foreground: crops go where it is",
    )


def thinning_of(fingerprint: Fingerprint) -> Choice:
    """The share of the training slices without foreground that is kept: as many as there are with it, at most."""
    present, absent = fingerprint.slices("train")
    share = present / (present + absent)
    *names, last = fingerprint.class_names
    shown = f"{', '.join(names)} or {last}" if names else last
    held = f"{100 * share:.0f} % of {present + absent} training slices show {shown}"
    if present >= absent:
        return Choice(1.0, f"{held}: all are kept")
    kept = max(THINNEST, round(present / absent, 2))
    return Choice(kept, f"{held}: of the others as many are kept; val and test keep all")


def augmentation_of(fingerprint: Fingerprint) -> Choice:
    """Which changes leave a slice one that might have been scanned."""
    names, reasons = [], []
    if pair := placed_apart(fingerprint):
        reasons.append(f"{' and '.join(pair)} are told apart by where they lie, which a flip would turn round")
    else:
        names.append("flip")
        reasons.append("no two classes differ by the side they lie on, so slices may be flipped")
    ratios = [case.spacing[1] / case.spacing[2] for case in fingerprint.training if case.spacing]
    if all(1 / (1 + ALIKE) <= ratio <= 1 + ALIKE for ratio in ratios):
        names.append("affine")
    else:
        reasons.append("pixels are not square, and to turn them would bend what they show")
    names.append("intensity")
    reasons.append("slices are stored upright, so quarter turns would make images that no scan has")
    return Choice(names, "; ".join(reasons))


def placed_apart(fingerprint: Fingerprint) -> tuple[str, str] | None:
    """Two classes whose centers lie in the same direction from each other in all training cases, or None.

    The mean distance, along rows or columns, is compared with its standard deviation over cases.
    """
    names, classes = fingerprint.classes
    for one, other in combinations(sorted(classes), 2):
        if classes[one] == classes[other]:
            continue
        both = [case for case in fingerprint.with_foreground if {one, other} <= case.foreground.centers.keys()]
        if len(both) < 3:
            continue
        apart = np.array([np.subtract(case.foreground.centers[one], case.foreground.centers[other]) for case in both])
        if (np.abs(apart.mean(axis=0)) > PLACED * apart.std(axis=0, ddof=1) + 1).any():
            return names[classes[one] - 1], names[classes[other] - 1]
    return None


def neighbors_of(fingerprint: Fingerprint, grid: PixelGrid) -> tuple[Choice, Choice]:
    """Slices on each side that go in as channels, and at what distance (None: the very next ones)."""
    size, between = grid.pixel(fingerprint), fingerprint.between
    if size is None or between is None:
        return Choice(0, "the store knows no millimeters between slices"), Choice(None, "")
    shown = f"slices lie {between:.2g} mm apart, pixels {size:.2g} mm"
    if between > FAR * size:
        return Choice(0, f"{shown}: the next slice shows something else"), Choice(None, "")
    found = [case.spacing[0] for case in fingerprint.training if case.spacing]
    alike = max(found) <= (1 + ALIKE) * between and min(found) >= (1 - ALIKE) * between
    if alike and between >= size:
        return Choice(1, f"{shown}: the next slices say where a structure begins and ends"), Choice(None, "")
    distance = round(max(between, 2 * size), 1)
    why = "distances between slices differ from case to case" if not alike else "the very next slices look the same"
    return Choice(1, f"{shown}: slices beside say where a structure begins and ends"), Choice(distance, why)


def batch_of(crop: int, slices: int) -> Choice:
    """Images of a step, before it is known whether they fit."""
    batch = LARGE_BATCH if crop <= SMALL_CROP else BATCH
    why = f"usual for crops of {crop}"
    while batch > SMALLEST_BATCH and slices / batch < STEPS_AN_EPOCH:
        batch //= 2
        why = f"only {slices} training slices: {STEPS_AN_EPOCH} steps an epoch at least, or batches of {SMALLEST_BATCH}"
    return Choice(batch, why)


def schedule_of(slices: int, batch: int) -> tuple[Choice, Choice]:
    """Epochs and the highest learning rate."""
    steps = max(1, slices // batch)
    epochs = min(MOST_EPOCHS, max(EPOCHS, math.ceil(STEPS / steps)))
    why = f"{steps} steps an epoch: {epochs * steps} steps in all"
    why += f", {EPOCHS} epochs at least" if epochs == EPOCHS else f"; {STEPS} are wanted, {MOST_EPOCHS} epochs at most"
    rate = float(f"{LEARNING_RATE * math.sqrt(batch / BATCH):.1e}")
    return Choice(epochs, why), Choice(rate, f"{LEARNING_RATE:g} for a batch of {BATCH}, by the root of the batch")


def of_data(fingerprint: Fingerprint, grid: PixelGrid) -> dict[str, Choice]:
    """The keys of a recipe's data section that are chosen, in their order."""
    crop, mode = crop_of(fingerprint, grid)
    neighbors, distance = neighbors_of(fingerprint, grid)
    return {
        "data.window": choose_window(fingerprint),
        "data.crop": crop,
        "data.crop_mode": mode,
        "data.augment": augmentation_of(fingerprint),
        "data.thin_background": thinning_of(fingerprint),
        "data.neighbors": neighbors,
        **({} if distance.value is None else {"data.neighbor_mm": distance}),
    }


def kept_slices(fingerprint: Fingerprint, thin: float) -> int:
    """Training slices that are left after thinning."""
    present, absent = fingerprint.slices("train")
    return present + round(thin * absent)
