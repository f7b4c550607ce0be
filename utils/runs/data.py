"""A run's data: the one way to open a split of it, wherever it lies now."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from torch.utils.data import Dataset

from datasets import DATASETS
from datasets.findings import listed
from datasets.slices.resampling import asked_spacing, asked_words
from utils.evaluation.kind import kind_of
from utils.recipe.registry import build
from utils.training import checkpoints

Split = Literal["train", "val", "test"]
TRAINING_ONLY = ("augment", "balance", "smote", "thin_background", "labeled", "pool")
UNSCORABLE = "has no labels, so nothing can be scored on it: give a store with labels"
LEARNED_FROM = {"train": (), "val": ("train",), "test": ("train", "val")}


def open_split(
    source: Mapping[str, Any],
    split: Split,
    root: str | None = None,
    *,
    same_split: bool = True,
    keep_decoded: bool = False,
    where: Path | str = "the checkpoint",
) -> Dataset:
    """The split as a network is scored on it: whole and not augmented, the train split too.

    Args:
        source: A checkpoint, or the description of an exported file, which has the split's hash but no patients.
        split: Which one.
        root: Where the data lie, if no longer at the recipe's place.
        same_split: Whether the data must be split as they were in training; otherwise its patients must be unseen.
        keep_decoded: Keep the samples in memory, for reading them several times.
        where: Names the checkpoint in messages.

    Raises ValueError where the data are not there, have other classes, another spacing or another split, or hold
    patients that the network was trained or (test) selected on, and OSError.
    """
    recipe, preprocessing = source["recipe"], source["preprocessing"]
    if not isinstance(recipe.get("data"), dict):
        raise ValueError("the checkpoint's recipe has no section data: it was not written by train.py")
    section = {key: value for key, value in recipe["data"].items() if key not in TRAINING_ONLY}
    place_key = next((key for key in ("root", "file") if key in section), "root")
    if root:
        section[place_key] = root
    kind = kind_of(preprocessing)
    section |= {**kind.as_stored, **({} if keep_decoded else kind.uncached)}
    dataset = build(DATASETS, section, "data", split=split, seed=recipe.get("seed", 0))
    place = section.get(place_key, section["name"])
    ours, theirs = list(dataset.class_names), list(preprocessing["class_names"])
    if not ours:
        raise ValueError(f"{place}: {UNSCORABLE}")
    if ours != theirs:
        raise ValueError(f"{place}: has the classes {', '.join(ours)}, but {where} predicts {', '.join(theirs)}")
    if asked_spacing(dataset.preprocessing) != asked_spacing(preprocessing):
        here, wanted = (
            asked_words(each) or "each volume's own spacing" for each in (dataset.preprocessing, preprocessing)
        )
        raise ValueError(f"{place}: has slices of {here}, but {where} takes {wanted}: give the store of that spacing")
    checkpoints.patients_of(source["split"], where)
    knows_patients = "train" in source["split"]
    if (same_split or not knows_patients) and dataset.split_sha256 != source["split"]["sha256"]:
        raise ValueError(
            f"{place}: has another split than the network was trained with: nothing was scored; slice with its split "
            "file, or give its own data"
        )
    if knows_patients:
        _refuse_seen(source, dataset, where)
    return dataset


def open_labeled(source: Mapping[str, Any], split: Split, root: str | None = None, **how: Any) -> Dataset:
    """`open_split` for what needs the labels of the cases. Raises ValueError also where nobody labeled them."""
    dataset = open_split(source, split, root, **how)
    if not dataset.has_labels:
        raise ValueError(f"{dataset.root}: {UNSCORABLE}")
    return dataset


def _refuse_seen(checkpoint: Mapping[str, Any], dataset: Dataset, where: Path | str) -> None:
    """Raises ValueError when patients of a val or test split were trained on, or those of test selected on.

    where: names the checkpoint. Also where converted weights do not say who they were trained on.
    """
    learned = checkpoints.patients_of(checkpoint["split"], where, *LEARNED_FROM[dataset.split])
    if seen := sorted(learned.intersection(dataset.patients)):
        raise ValueError(
            f"{where}: was trained or selected on {len(seen)} {dataset.split} patients ({listed(seen)}): nothing was "
            "scored; give the data and split that it was trained with, or train again"
        )
