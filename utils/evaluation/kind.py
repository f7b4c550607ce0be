"""The two kinds of task, slices of volumes and labeled images: everything in which they differ is here.

Nothing of this needs torch, so that commands which read only test.json or CSV files start at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datasets.slices.neighbors import MOST_NEIGHBORS, channels_of

LARGEST_SIDE = 1 << 14  # pixels
SIDE_WITHOUT_CROP = 256
Preprocessing = Mapping[str, Any]  # a checkpoint's section of that name
Row = Mapping[str, Any]  # a row of test.json: a case (and class) with its score


@dataclass(frozen=True, eq=False)  # compared by identity: there are only the two below
class Kind:
    """What a network is given and asked, and how that is checked, scored and named.

    Args:
        task: The word for it.
        inputs: What people give to the network: `volumes` or `images`.
        sample: What a network is given one of: `a slice` or `an image`.
        cases: What test cases are called where they are counted.
        patients: What the members of a split are called.
        example: Name of a file to predict.
        scores: How scores are introduced.
        empty: What `empty_mask_rule` is about.
        background: How many logits there are beside those of the named classes.
        score: The key of a row that holds the scores of a case: one number, or one for each class.
        target: The key of a row that describes its target, for comparing the targets of two results.
        target_words: A description of that target.
        uncached: Arguments of the dataset with which it keeps no decoded sample in memory.
        as_stored: Arguments of the dataset with which the train split is not augmented.
        sound: Says of every key of the preprocessing that it must have whether its value can be right.
        later: The same of keys that earlier versions did not write.
        side: Side in pixels of the images that work and time are measured with.
        pad_value: What lies around an image that is smaller than the network's input.
        tested_beside: Metrics that the test split is scored with beside the recipe's, made from the class names.
    """

    task: str
    inputs: str
    sample: str
    cases: str
    patients: str
    example: str
    scores: str
    empty: str
    background: int
    score: str
    target: str
    target_words: str
    uncached: Mapping[str, Any]
    as_stored: Mapping[str, Any]
    sound: Mapping[str, Callable[[Preprocessing], bool]]
    later: Mapping[str, Callable[[Preprocessing], bool]]
    side: Callable[[Preprocessing], int]
    pad_value: Callable[[Preprocessing], float]
    tested_beside: Callable[[Sequence[str]], list[Any]]

    def outputs(self, class_names: Sequence[str]) -> list[str]:
        """The name of each logit."""
        return ["background"] * self.background + list(class_names)

    def values(self, row: Row) -> Sequence[float]:
        """The scores in a row of test.json: its Dice, or the probability of each class."""
        values = row[self.score]
        return values if isinstance(values, list) else [values]

    def fault(self, preprocessing: Preprocessing) -> str | None:
        """What is wrong with a preprocessing, such as a missing key; None where it is right."""
        if missing := sorted(self.sound.keys() - preprocessing.keys()):
            return f"has no {', '.join(missing)}: train it again"
        for key, is_sound in {**self.sound, **self.later}.items():
            if key in preprocessing and not is_sound(preprocessing):
                return f"has {key} {str(preprocessing[key])[:60]}: is the file whole?"
        return None


def kind_of(preprocessing: Preprocessing) -> Kind:
    """The kind of a dataset, checkpoint or exported file, by its preprocessing."""
    return IMAGES if preprocessing.get("kind") == "image" else SLICES


def kind_of_rows(rows: Sequence[Row]) -> Kind:
    """The kind of a test result, by its rows."""
    return IMAGES if IMAGES.score in rows[0] else SLICES


def _are_numbers(values: Any, count: int) -> bool:
    """Whether it is a list of so many finite numbers."""
    if not isinstance(values, list | tuple) or len(values) != count:
        return False
    return all(isinstance(value, int | float) and math.isfinite(value) for value in values)


def _is_length(value: Any) -> bool:
    """Whether it is a number of mm above 0."""
    return _are_numbers([value], 1) and value > 0


def _is_side(value: Any) -> bool:
    return type(value) is int and 0 < value <= LARGEST_SIDE


def _are_names(names: Any) -> bool:
    are_texts = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
    return are_texts and 0 < len(names) < 256 and len(set(names)) == len(names)


def _is_window(window: Any) -> bool:
    return window is None or (_are_numbers(window, 2) and window[0] < window[1])


def _ranked_dice(class_names: Sequence[str]) -> list[Any]:
    from utils.evaluation.metrics.ranked_dice import RankedDice  # torch

    return [RankedDice(class_names)]


SLICES = Kind(
    task="segmentation",
    inputs="volumes",
    sample="a slice",
    cases="cases",
    patients="patients",
    example="case.nii.gz",
    scores="Volume Dice, all slices,",
    empty="Empty masks",
    background=1,
    score="dice",
    target="target_voxels",
    target_words="has {} voxels",
    uncached={"cache": False},
    as_stored={"augment": []},
    sound={
        "class_names": lambda found: _are_names(found["class_names"]),
        "modality": lambda found: found["modality"] in ("CT", "MR"),
        "window": lambda found: _is_window(found["window"]),
        "pad_value": lambda found: _are_numbers([found["pad_value"]], 1),
        "crop": lambda found: found["crop"] is None or _is_side(found["crop"]),
    },
    later={
        "neighbors": lambda found: type(found["neighbors"]) is int and 0 <= found["neighbors"] <= MOST_NEIGHBORS,
        "spacing": lambda found: found["spacing"] is None or _is_length(found["spacing"]),
        "slice_spacing": lambda found: found["slice_spacing"] is None or _is_length(found["slice_spacing"]),
        "neighbor_mm": lambda found: found["neighbor_mm"] is None or _is_length(found["neighbor_mm"]),
        "in_channels": lambda found: found["in_channels"] == channels_of(found.get("neighbors", 0)),
    },
    side=lambda found: found.get("crop") or SIDE_WITHOUT_CROP,
    pad_value=lambda found: found["pad_value"],
    tested_beside=_ranked_dice,
)
IMAGES = Kind(
    task="classification",
    inputs="images",
    sample="an image",
    cases="images",
    patients="images",
    example="image.png",
    scores="Scores",
    empty="Empty classes",
    background=0,
    score="probability",
    target="target",
    target_words="is class {}",
    uncached={"cache_mb": 0, "device_gb": 0},
    as_stored={},
    sound={
        "class_names": lambda found: _are_names(found["class_names"]),
        "in_channels": lambda found: found["in_channels"] in (1, 3),
        "image_size": lambda found: _is_side(found["image_size"]),
        "mean": lambda found: _are_numbers(found["mean"], found["in_channels"]),
        "std": lambda found: _are_numbers(found["std"], found["in_channels"]),
    },
    later={},
    side=lambda found: found["image_size"],
    pad_value=lambda found: 0.0,
    tested_beside=lambda class_names: [],
)
