"""Batches of training slices from memory, by SliceDataset and by MONAI's transforms one sample after the other.

Both ways cut the same random CT slices (int16), scale them to a window and augment them alike, in turn and in one
process. MONAI's way collates its samples. The ratio of two ways is the median over rounds.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import get_track_meta, set_track_meta
from monai.transforms import (
    RandAdjustContrastd,
    RandAffined,
    RandFlipd,
    RandGaussianNoised,
    RandRotate90d,
    RandScaleIntensityd,
    RandShiftIntensityd,
)
from torch.utils.data import default_collate
from tqdm import tqdm

from datasets.slices.augmentation import AUGMENTATIONS
from datasets.slices.dataset import SliceDataset
from datasets.slices.store import SliceRecord, read_slice
from datasets.slices.transforms import normalize, pad_center, pad_value
from scripts.benchmarks.noise_store import write_noise_store

KEYS = ("image", "target")
ROWS = (  # side of the crop, side of the slices, augmentation
    (384, 512, ("flip", "rot90")),
    (384, 512, AUGMENTATIONS),
    (64, 80, ("flip", "rot90")),
    (64, 80, AUGMENTATIONS),
)


def run(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    print(f"batches of {args.batch_size}, {args.threads} threads, torch {torch.__version__}\n")
    print(f"{'crop':>5} {'augmentation':32} {'MONAI':>10} {'SliceDataset':>13} {'ratio':>7}")
    with tempfile.TemporaryDirectory() as folder:
        for side, size, augment in ROWS:
            root = Path(folder) / str(size)
            if not root.exists():
                write_noise_store(root, (1, 1, 1), args.slices, size)
            dataset = SliceDataset(root, "train", crop=side, augment=augment)
            ways = {"MONAI": OneByOne(dataset, augment).batch, "SliceDataset": dataset.batch}
            seconds: dict[str, list[float]] = {name: [] for name in ways}
            for round_ in tqdm(range(args.rounds + 1), f"{side} {' '.join(augment)}", leave=False):
                order = np.random.default_rng(round_).integers(len(dataset), size=args.batch_size).tolist()
                dataset.epoch = round_
                for name, batch in list(ways.items())[:: 1 if round_ % 2 else -1]:
                    seconds[name].append(timed(batch, order))
            monai, ours = (values[1:] for values in seconds.values())  # the first round imports and fills caches
            ratio = statistics.median(their / our for their, our in zip(monai, ours, strict=True))
            rates = (f"{1 / statistics.median(values):6.1f} /s" for values in (monai, ours))
            print("{:5} {:32} {:>10} {:>13} {:6.2f}x".format(side, " ".join(augment), *rates, ratio), flush=True)


def timed(batch: Callable[[Sequence[int]], dict[str, Any]], indices: Sequence[int]) -> float:
    started = time.perf_counter()
    batch(indices)
    return time.perf_counter() - started


class OneByOne:
    """Training samples of a SliceDataset one after the other: central crop, window, padding, MONAI's transforms."""

    def __init__(self, dataset: SliceDataset, augment: Sequence[str]) -> None:
        self.dataset, self.augment = dataset, MonaiAugment(augment, dataset.crop)
        self.slices = [(image, label // 2) for image, label in (read_slice(r.path) for r in dataset.records)]

    def batch(self, indices: Sequence[int]) -> dict[str, Any]:
        return default_collate([self.sample(index) for index in indices])

    def sample(self, index: int) -> dict[str, Any]:
        record, (image, target) = self.dataset.records[index], self.slices[index]
        generator = np.random.RandomState(np.random.Philox(key=[0, self.dataset.epoch << 32 | index]))
        image, target = cut(image, self.dataset.crop), cut(target, self.dataset.crop)
        pair = prepared(image, target, self.dataset.window, record, self.dataset.crop)
        image, target = self.augment(*pair, generator)
        return {"image": image, "target": target.long(), "case": record.case, "slice": record.slice}


def cut(array: np.ndarray, side: int) -> np.ndarray:
    """The central square of an array (H, W), as much of it as there is."""
    top, left = (max(length - side, 0) // 2 for length in array.shape)
    return array[top : top + side, left : left + side]


def prepared(
    image: np.ndarray, target: np.ndarray, window: tuple[float, float] | None, record: SliceRecord, side: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """A crop (H, W) as the transforms take it: scaled, padded evenly, (1, side, side)."""
    image = pad_center(normalize(image, window, record.mean, record.std), (side, side), pad_value(window))
    return torch.from_numpy(image)[None], torch.from_numpy(pad_center(target, (side, side)))[None]


class MonaiAugment:
    """What `datasets.slices.augmentation.Augment` describes, as MONAI's random transforms of one sample."""

    def __init__(self, names: Sequence[str], side: int) -> None:
        shift = side / 16
        transforms = {
            "flip": [RandFlipd(KEYS, prob=0.5, spatial_axis=axis) for axis in (0, 1)],
            "rot90": [RandRotate90d(KEYS, prob=0.75, max_k=3)],
            "affine": [
                RandAffined(
                    KEYS,
                    prob=0.3,
                    rotate_range=np.pi / 12,
                    scale_range=(0.1, 0.1),
                    translate_range=(shift, shift),
                    mode=("bilinear", "nearest"),
                    padding_mode="reflection",
                )
            ],
            "intensity": [
                RandAdjustContrastd("image", prob=0.15, gamma=(0.7, 1.5)),
                RandScaleIntensityd("image", factors=0.1, prob=0.15),
                RandShiftIntensityd("image", offsets=0.1, prob=0.15),
                RandGaussianNoised("image", prob=0.15, std=0.05),
            ],
        }
        self.transforms = [transform for name in AUGMENTATIONS if name in names for transform in transforms[name]]

    def __call__(
        self,
        image: torch.Tensor,
        target: torch.Tensor,
        generator: np.random.RandomState | Callable[[Any], np.random.RandomState],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Image and target (1, H, W) with H = W, augmented alike. generator: one of all transforms, or of each."""
        sample = {"image": image, "target": target}
        track_meta = get_track_meta()
        set_track_meta(False)  # plain tensors: MONAI's record of what was done costs more than the transforms
        try:
            for transform in self.transforms:
                state = generator if isinstance(generator, np.random.RandomState) else generator(transform)
                sample = transform.set_random_state(state=state)(sample)
        finally:
            set_track_meta(track_meta)
        return sample["image"], sample["target"]
