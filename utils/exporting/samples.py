"""The data an export needs: training images to calibrate with, the val split to measure on. The test split is not."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datasets import DATASETS
from datasets.images.dataset import LabeledImages
from datasets.slices.dataset import SliceDataset
from datasets.slices.store import SliceRecord, read_slice
from datasets.slices.transforms import normalize, pad_center, padded_size
from utils.recipe.registry import build
from utils.training import checkpoints

PLACES = ("root", "file")
TRAINING_ONLY = ("augment", "balance", "smote", "thin_background", "labeled")


def open_split(checkpoint: Mapping[str, Any], split: str, root: str | None) -> Dataset:
    """The train or val split of a checkpoint's recipe, at `root` where that has moved, as it is: nothing random.

    Raises ValueError when it is not there, or is not the split the checkpoint was trained with.
    """
    assert split in ("train", "val")
    recorded = checkpoint["recipe"].get("data")
    if not recorded:
        raise ValueError("the checkpoint names no data")
    section = {key: value for key, value in recorded.items() if key not in TRAINING_ONLY}
    if root:
        section[next(key for key in PLACES if key in section)] = root
    if section["name"] == "slices":
        section |= {"augment": [], "cache": split == "val"}
    elif split == "train":
        section |= {"cache_mb": 0}
    dataset = build(DATASETS, section, "data", split=split, seed=checkpoint["recipe"].get("seed", 0))
    names = list(checkpoint["preprocessing"]["class_names"])
    if list(dataset.class_names) != names:
        raise ValueError(f"the data has classes {', '.join(dataset.class_names)}, the checkpoint {', '.join(names)}")
    checkpoints.patients_of(checkpoint["split"], "the checkpoint")
    if dataset.split_sha256 != checkpoint["split"]["sha256"]:
        raise ValueError("the data has been split anew since: its val patients may be among those trained on")
    return dataset


def draw_images(dataset: Dataset, preprocessing: Mapping[str, Any], count: int, seed: int = 0) -> list[Tensor]:
    """`count` images (C, H, W) of the train split as prediction would feed them, fewer where there are fewer.

    Cases in a random order that `seed` gives, one slice of each in turn, until there are enough; every other slice is
    one with a label where the case has one left. Labeled images: one of each class in turn.
    """
    random = np.random.default_rng(seed)
    if isinstance(dataset, SliceDataset):
        return [_slice_input(record, preprocessing) for record in draw_slices(dataset.records, count, random)]
    assert isinstance(dataset, LabeledImages)
    groups = defaultdict(list)
    for index in random.permutation(len(dataset)).tolist():
        groups[dataset.labels[index]].append(index)
    return [dataset[index]["image"] for index in _in_turn([groups[label] for label in sorted(groups)], count)]


def draw_slices(records: Sequence[SliceRecord], count: int, random: np.random.Generator) -> list[SliceRecord]:
    """See `draw_images`."""
    cases = defaultdict(lambda: ([], []))
    for index in random.permutation(len(records)).tolist():
        cases[records[index].case][bool(records[index].labels)].append(records[index])
    names = sorted(cases)
    groups = []
    for turn, place in enumerate(random.permutation(len(names)).tolist()):
        empty, labeled = cases[names[place]]
        first, second = (labeled, empty) if turn % 2 == 0 else (empty, labeled)
        shared = min(len(first), len(second))
        alternating = [record for pair in zip(first, second, strict=False) for record in pair]
        groups.append(alternating + first[shared:] + second[shared:])
    return _in_turn(groups, count)


def _in_turn(groups: Sequence[Sequence[Any]], count: int) -> list[Any]:
    """The first of each group, then the second of each, ..., `count` of them."""
    longest = max(len(group) for group in groups)
    ordered = [group[round_] for round_ in range(longest) for group in groups if round_ < len(group)]
    return ordered[:count]


def _slice_input(record: SliceRecord, preprocessing: Mapping[str, Any]) -> Tensor:
    """A stored slice as the network sees it in prediction: whole, padded to a multiple of 32, (1, H, W)."""
    image, _ = read_slice(record.path)
    image = normalize(image, preprocessing["window"], record.mean, record.std)
    size = padded_size(image.shape, preprocessing["crop"])
    return torch.from_numpy(pad_center(image, size, preprocessing["pad_value"]))[None]
