"""What stored slices mean to a network: the classes that a task makes of labels, and the window of intensities."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

DEFAULT_CT_WINDOW = (-200.0, 300.0)  # HU; kidney and kidney tumor as EMKD and HLFD


def window_of(window: Sequence[float] | str | None, modality: str) -> tuple[float, float] | None:
    """(lower, upper) in HU as asked for, or None for a z-score; `auto` depends on the modality.

    Raises ValueError for what is not a range, and for one of slices that are not in HU.
    """
    if window == "auto":
        return DEFAULT_CT_WINDOW if modality == "CT" else None
    if window is None:
        return None
    if modality != "CT":
        raise ValueError(f"window {window} is in HU, these slices are {modality}: leave it out for a z-score per case")
    if isinstance(window, str) or len(window) != 2 or not window[0] < window[1]:
        raise ValueError(f"window {window!r} is not a range of HU: give [lower, upper], e.g. [-200, 300]")
    return float(window[0]), float(window[1])


def store_classes(
    root: Path, manifest: Mapping[str, Any], task: str, class_names: Sequence[str] | None
) -> tuple[list[str], dict[int, int]]:
    """`classes_of` a slice store. class_names: what the classes of one without labels are, None of one with its own.

    Raises ValueError also for names that are not those of the labels.
    """
    labels = {int(value): name for value, name in manifest["labels"].items()}
    if not labels:
        return list(class_names or ()), {}
    names, classes = classes_of(task, labels, manifest["tumor_labels"], manifest["dataset"])
    if class_names is not None and list(class_names) != names:
        raise ValueError(f"class_names: {root} has the classes {_in_words(names)}, not {_in_words(class_names)}")
    return names, classes


def classes_of(
    task: str, labels: dict[int, str], tumor_labels: Sequence[int], dataset: str
) -> tuple[list[str], dict[int, int]]:
    """Names of the foreground classes, and the class of every label value that is foreground.

    Raises ValueError where the labels of the dataset cannot serve the task.
    """
    if task == "all":
        return [labels[value] for value in sorted(labels)], {v: n for n, v in enumerate(sorted(labels), start=1)}
    if task == "tumor":
        if not tumor_labels:
            raise ValueError(f"task tumor: {dataset} has no tumor label ({_listed(labels)}): use task organ or all")
        return ["tumor"], dict.fromkeys(tumor_labels, 1)
    organs = [labels[value] for value in sorted(labels) if value not in tumor_labels]
    if not organs:
        raise ValueError(f"task organ: {dataset} labels tumors only ({_listed(labels)}): use task tumor")
    # With a tumor beside it the lowest label is the organ itself; several parts without a tumor have no common name.
    name = organs[0] if tumor_labels or len(organs) == 1 else "organ"
    return [name], dict.fromkeys(labels, 1)


def lookup_of(classes: Mapping[int, int]) -> np.ndarray:
    """The class of every label value, uint8 (256,); 0 for those that are background."""
    lookup = np.zeros(256, np.uint8)
    lookup[list(classes)] = list(classes.values())
    return lookup


def _in_words(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"


def _listed(labels: dict[int, str]) -> str:
    return ", ".join(f"{value} {name}" for value, name in sorted(labels.items()))
