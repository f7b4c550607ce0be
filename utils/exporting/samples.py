"""Images of the train split that an export is calibrated with."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datasets.images.dataset import LabeledImages
from datasets.slices.dataset import SliceDataset
from datasets.slices.store import SliceRecord, read_slice
from datasets.slices.transforms import normalize, pad_center, padded_size


def draw_images(dataset: Dataset, preprocessing: Mapping[str, Any], count: int, seed: int = 0) -> list[Tensor]:
    """`count` images (C, H, W) of the train split as prediction would feed them, fewer where there are fewer.

    Cases in a random order that `seed` gives, one slice of each in turn, until there are enough; every other slice is
    one with a label where the case has one left. Labeled images: one of each class in turn.
    """
    random = np.random.default_rng(seed)
    if isinstance(dataset, SliceDataset):
        places = {record.file: place for place, record in enumerate(dataset.records)}
        drawn = [places[record.file] for record in draw_slices(dataset.records, count, random)]
        return [_slice_input(dataset.around(place), preprocessing) for place in drawn]
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


def _slice_input(channels: Sequence[SliceRecord], preprocessing: Mapping[str, Any]) -> Tensor:
    """Stored slices as the network sees them in prediction: whole, padded to a multiple of 32, (C, H, W)."""
    planes = []
    for record in channels:
        image = normalize(read_slice(record.path)[0], preprocessing["window"], record.mean, record.std)
        size = padded_size(image.shape, preprocessing["crop"])
        planes.append(pad_center(image, size, preprocessing["pad_value"]))
    return torch.from_numpy(np.stack(planes))
