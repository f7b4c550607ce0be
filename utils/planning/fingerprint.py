"""What a data set holds, as a plan needs it: sizes, millimeters, intensities within the foreground, volumes, splits."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from datasets.slices.tasks import classes_of
from datasets.splits import SPLITS

MOST_VALUES = 1000  # of a slice: intensities that are taken of its foreground, evenly
PERCENTILES = 0.5, 99.5


@dataclass(frozen=True)
class Foreground:
    """Where the labels of a case lie in its slices, and what the image holds there.

    Args:
        box: First row and column, and one more than the last, over all slices; None where there is no label.
        centers: Mean row and column of each label value.
        values: Intensities at some of the foreground's pixels, float32.
    """

    box: tuple[int, int, int, int] | None
    centers: dict[int, tuple[float, float]]
    values: np.ndarray


def look(slices: Iterable[tuple[np.ndarray, np.ndarray]]) -> Foreground:
    """The foreground of slices, each an image (H, W) and a label (H, W)."""
    boxes, values = [], []
    sums: dict[int, np.ndarray] = {}
    for image, label in slices:
        rows, columns = np.nonzero(label)
        if not len(rows):
            continue
        boxes.append((rows.min(), columns.min(), rows.max() + 1, columns.max() + 1))
        found = label[rows, columns]
        inside = image[rows, columns]
        values.append(inside[:: -(-len(inside) // MOST_VALUES)].astype(np.float32))
        for value in np.unique(found).tolist():
            here = found == value
            total = np.array([rows[here].sum(), columns[here].sum(), here.sum()], np.float64)
            sums[value] = sums.get(value, 0) + total
    if not boxes:
        return Foreground(None, {}, np.empty(0, np.float32))
    edges = np.array(boxes)
    box = (*edges[:, :2].min(axis=0).tolist(), *edges[:, 2:].max(axis=0).tolist())
    centers = {value: (total[0] / total[2], total[1] / total[2]) for value, total in sums.items()}
    return Foreground(box, centers, np.concatenate(values))


@dataclass(frozen=True)
class CaseFacts:
    """A case as a plan sees it.

    Args:
        shape: Slices, rows and columns, as they are stored or would be.
        spacing: mm between them; None where nobody knows.
        labels: The label values of each slice; empty where the slices were not looked at.
        milliliters: The volume of each label value; empty where it is not known.
        foreground: Of training cases; None for others.
        itemsize: Bytes of a pixel of the stored image.
        source: Slices, rows and columns of the volume that it comes from.
        image: The file of that volume; None where nobody knows it.
    """

    case: str
    patient: str
    split: str
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float] | None
    labels: tuple[tuple[int, ...], ...]
    milliliters: dict[int, float]
    foreground: Foreground | None
    itemsize: int
    source: tuple[int, int, int]
    image: Path | None


@dataclass(frozen=True)
class Fingerprint:
    """What all cases of a data set hold.

    Args:
        store: The slice store, which need not be there yet.
        raw: The folder of the raw volumes; None where nobody knows it.
        spacing: mm in plane that the store was resampled to; None where it holds the source's own pixels.
        slice_spacing: mm of the slabs that the store holds; None where it holds the source's own slices.
        exists: Whether the store is there.
        channel: Which one of the images is stored, where they have several.
    """

    store: Path
    raw: Path | None
    exists: bool
    dataset: str
    modality: str
    task: str
    labels: dict[int, str]
    tumor_labels: list[int]
    spacing: float | None
    slice_spacing: float | None
    channel: int | None
    cases: list[CaseFacts]

    @cached_property
    def classes(self) -> tuple[list[str], dict[int, int]]:
        """The task's class names, and the class of each label value. Raises ValueError where there are none."""
        return classes_of(self.task, self.labels, self.tumor_labels, self.dataset)

    @property
    def class_names(self) -> list[str]:
        return self.classes[0]

    @property
    def training(self) -> list[CaseFacts]:
        return self.of("train")

    def of(self, split: str) -> list[CaseFacts]:
        return [case for case in self.cases if case.split == split]

    @cached_property
    def with_foreground(self) -> list[CaseFacts]:
        """The training cases that have a label."""
        return [case for case in self.training if case.foreground is not None and case.foreground.box is not None]

    @cached_property
    def percentiles(self) -> tuple[float, float]:
        """0.5 and 99.5 percentile of the intensities within the foreground of the training cases."""
        values = np.concatenate([case.foreground.values for case in self.with_foreground])
        low, high = np.percentile(values, PERCENTILES)
        return float(low), float(high)

    def median(self, of: Callable[[CaseFacts], float | None]) -> float | None:
        """Median over training cases; None where nothing is known."""
        found = [value for case in self.training if (value := of(case)) is not None]
        return statistics.median(found) if found else None

    @property
    def in_plane(self) -> float | None:
        """Median mm of a pixel of the training cases, the mean of its two sides."""
        return self.median(pixel)

    @property
    def between(self) -> float | None:
        """Median mm between slices of the training cases."""
        return self.median(lambda case: case.spacing and case.spacing[0])

    def slices(self, split: str) -> tuple[int, int]:
        """Slices of a split with the task's foreground, and without."""
        wanted = set(self.classes[1])
        counts = Counter(bool(wanted & set(labels)) for case in self.of(split) for labels in case.labels)
        return counts[True], counts[False]

    def patients(self, split: str, value: int | None = None) -> int:
        """Patients of a split, of all or of those that have a label value."""
        cases = self.of(split)
        if value is not None:
            cases = [
                case for case in cases if case.milliliters.get(value) or any(value in each for each in case.labels)
            ]
        return len({case.patient for case in cases})

    def refuse_useless(self) -> None:
        """Raises ValueError where nothing can be planned from: a split without cases, or no label to learn from."""
        for split in SPLITS[:2]:
            if not self.of(split):
                raise ValueError(f"{self.store}: no {split} case to plan from: give more patients, or another --split")
        wanted = set(self.classes[1])
        if not any(wanted & set(labels) for case in self.training for labels in case.labels):
            names = ", ".join(self.class_names)
            raise ValueError(f"{self.store}: no training slice shows {names}: choose another --task, or another split")


def pixel(case: CaseFacts) -> float | None:
    """mm of a pixel, the mean of its two sides."""
    return None if case.spacing is None else (case.spacing[1] + case.spacing[2]) / 2
