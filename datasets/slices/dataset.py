"""Slices written by scripts/SliceMaker.py as samples for a segmentation network."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import Dataset

from datasets.fingerprints import Digests
from datasets.slices.consistency import check_consistent
from datasets.slices.fingerprints import slice_digests
from datasets.slices.selection import thinned, unlabeled_patients
from datasets.slices.store import SliceRecord, read_index, read_manifest, read_slice
from datasets.slices.transforms import (
    STRIDE,
    Augment,
    crop_corner,
    next_multiple,
    normalize,
    pad_center,
    pad_value,
    padded_size,
)

SPLITS = ("train", "val", "test")
TASKS = ("tumor", "organ", "all")
CROP_MODES = ("center", "foreground")
DEFAULT_CT_WINDOW = (-200.0, 300.0)  # HU; kidney and kidney tumor as EMKD and HLFD


class SliceDataset(Dataset):
    """Slices of one split as `{"image", "target", "case", "slice", "size"}`; whole slices in val and test.

    Training slices are cropped (and padded) to `crop` x `crop`, then augmented: a crop after a flip, as EMKD and HLFD
    have it, would cut away different anatomy each time. Val and test slices are never cropped, thinned or augmented:
    they are padded evenly to a multiple of 32, at least `crop`, and `unpad(tensor, sample["size"])` takes logits and
    target back to the slice. All slices of a case have one size, so a batch of one case collates.

    The random numbers of sample i in epoch e depend on (seed, e, i) only: the same for any number of workers, ranks and
    restarts. Set `epoch` before each epoch; it is shared with worker processes, persistent ones too.

    Args:
        root: Folder that scripts/SliceMaker.py wrote.
        split: `train`, `val` or `test`.
        task: `tumor` (1 where the label is a tumor), `organ` (1 where there is any label: tumor and cyst belong to the
            organ) or `all` (label values as consecutive classes). None: the task the slices were made for.
        window: (lower, upper) in HU, scaled to [-1, 1]; None: z-score with each case's mean and standard deviation;
            `auto`: (-200, 300) for CT, None for MR.
        crop: Side of a training sample in pixels, a multiple of 32. None: no crop, padded to the square that holds the
            largest training slice.
        crop_mode: `center`, or `foreground` (a random crop about a random foreground pixel, if the slice has one).
        augment: Training only, any of `flip`, `rot90`, `affine`, `intensity`.
        thin_background: Fraction of the slices without foreground that training keeps, 0 to 1; which ones depends on
            `seed` alone.
        labeled: Fraction of the training patients whose labels are known, for distillation on unlabeled images as well;
            the same ones whatever the seed. The target of the others is -1 everywhere, thinning and crops do not use
            their labels, and half of each training batch comes from each of the two groups.
        cache: Keep decoded slices in memory if all of this split fits in `cache_mb` megabytes (per process started
            with DDP; forked loader workers share it).
        seed: Seed of thinning, foreground crops and augmentation.

    Raises ValueError for a folder that is not a slice store, a split without slices, a task that the labels cannot
    serve, and arguments out of range.
    """

    in_channels = 1
    notes: tuple[str, ...] = ()  # a store has nothing to report about itself
    sampling_weights: torch.Tensor | None = None  # every slice once an epoch
    labeled: torch.Tensor | None = None
    class_counts = None  # classes are per pixel

    def __init__(
        self,
        root: str | Path,
        split: str,
        task: str | None = None,
        window: tuple[float, float] | Literal["auto"] | None = "auto",
        crop: int | None = 384,
        crop_mode: str = "center",
        augment: Sequence[str] = ("flip", "rot90"),
        thin_background: float = 1.0,
        labeled: float = 1.0,
        cache: bool = True,
        cache_mb: int = 1024,
        seed: int = 0,
    ) -> None:
        self.root = Path(root)
        self.split = _choice("split", split, SPLITS)
        manifest = read_manifest(self.root)
        self.modality: str = manifest["modality"]
        self.task = _choice("task", task or manifest["task"], TASKS)
        self.window = _checked_window(window, self.modality)
        if crop is not None and (crop <= 0 or crop % STRIDE):
            raise ValueError(f"crop {crop} is not a multiple of {STRIDE}: use {next_multiple(max(crop, 1))}, or null")
        if _choice("crop_mode", crop_mode, CROP_MODES) == "foreground" and crop is None:
            raise ValueError("crop_mode foreground needs a crop: give its side in pixels, e.g. 384")
        if not 0.0 <= thin_background <= 1.0:
            raise ValueError(f"thin_background {thin_background} is not a fraction: give a number from 0 to 1")
        if not 0.0 < labeled <= 1.0:
            raise ValueError(f"labeled {labeled} is not a share of the patients: give a number above 0, at most 1")
        self.crop, self.crop_mode, self.seed = crop, crop_mode, seed
        self.split_sha256: str = manifest["split_sha256"]

        labels = {int(value): name for value, name in manifest["labels"].items()}
        self.class_names, classes = _classes(self.task, labels, manifest["tumor_labels"], manifest["dataset"])
        self.num_classes = len(self.class_names) + 1
        self._meaning = {value: self.class_names[number - 1] for value, number in classes.items()}
        self._lookup = np.zeros(256, dtype=np.uint8)
        for value, number in classes.items():
            self._lookup[value] = number

        index = read_index(self.root)
        check_consistent(self.root, index, manifest)
        self._patients = {name: sorted({r.patient for r in index if r.split == name}) for name in SPLITS}
        records = sorted((r for r in index if r.split == split), key=lambda r: (r.case, r.slice))
        if not records:
            raise ValueError(f"{self.root / 'index.csv'} has no {split} slices: slice again with another --split")
        self.cases = list(dict.fromkeys(r.case for r in records))
        self.patients = self._patients[split]
        self._all_records = records
        self.unlabeled: frozenset[str] = frozenset()
        if split == "train":
            self.unlabeled = unlabeled_patients(self.patients, labeled)
            records = thinned(records, set(classes), thin_background, seed, self.unlabeled)
            if not records:
                raise ValueError("no training slice has foreground and thin_background is 0: raise it")
        self.records = records
        if self.unlabeled:
            self.labeled = torch.tensor([record.patient not in self.unlabeled for record in self.records])

        self._augment = None
        if split == "train":
            self._side = crop or self._largest_side()
            self._augment = Augment(augment, self._side)
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._cache = self._decoded(cache_mb * 2**20) if cache else None

    @property
    def epoch(self) -> int:
        """Epoch whose random crops and augmentations are drawn; in memory shared with the loader's workers."""
        return int(self._epoch)

    @epoch.setter
    def epoch(self, value: int) -> None:
        self._epoch.fill_(value)

    @property
    def preprocessing(self) -> dict[str, Any]:
        """All that is needed to feed a new volume to a network trained on this, as plain JSON values."""
        return {
            "modality": self.modality,
            "task": self.task,
            "class_names": list(self.class_names),
            "labels": {str(number): name for number, name in enumerate(self.class_names, start=1)},
            "window": None if self.window is None else list(self.window),
            "pad_value": pad_value(self.window),
            "crop": self.crop,
            "multiple": STRIDE,
        }

    @property
    def shown_classes(self) -> list[str]:
        """The classes that some slice of this split shows."""
        shown = {self._meaning.get(value) for record in self._all_records for value in record.labels}
        return [name for name in self.class_names if name in shown]

    @cached_property
    def digests(self) -> Digests:
        """What each case of this split holds, all of its slices; see `datasets.fingerprints`."""
        return slice_digests(self._all_records, self._meaning)

    def split_patients(self, split: str) -> list[str]:
        """Patients of `split` in the index: those whose slices are here."""
        return list(self._patients[_choice("split", split, SPLITS)])

    def case_indices(self) -> dict[str, list[int]]:
        """Indices of each case's samples, from its lowest slice to its highest."""
        indices: dict[str, list[int]] = {case: [] for case in self.cases}
        for index, record in enumerate(self.records):
            indices[record.case].append(index)
        return indices

    @cached_property
    def sizes(self) -> dict[str, tuple[int, int]]:
        """The (height, width) of each case's slices."""
        first = {record.case: record for record in reversed(self._all_records)}
        return {case: read_slice(first[case].path)[0].shape for case in self.cases}

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Each slice once; without this, iterating by index would never end, see `__getitem__`."""
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Image (1, H, W) float32, target (1, H, W) int64, case, slice number, and size: (H, W) of the stored slice.

        index: `i + n * len(self)` is sample i again, cropped and augmented anew.
        """
        place = index % len(self)
        record = self.records[place]
        image, target = self._cache[place] if self._cache is not None else self._read(record)
        if record.patient in self.unlabeled:
            target = np.zeros_like(target)
        size = image.shape
        if self.split == "train":
            image, target = self._training_pair(image, target, record, index)
        else:
            image = normalize(image, self.window, record.mean, record.std)
            image, target = self._to_tensors(image, target, padded_size(size, self.crop))
        target = target.long().contiguous()
        return {
            "image": image.contiguous(),
            "target": torch.full_like(target, -1) if record.patient in self.unlabeled else target,
            "case": record.case,
            "slice": record.slice,
            "size": size,
        }

    def gather(self, indices: Sequence[int]) -> dict[str, Any]:
        samples = [self[index] for index in indices]
        raw = {key: torch.stack([sample[key] for sample in samples]) for key in ("image", "target")}
        return (
            raw | {key: [sample[key] for sample in samples] for key in ("case", "slice")} | {"size": samples[0]["size"]}
        )

    def finish(self, raw: dict[str, Any]) -> dict[str, Any]:
        return raw

    def batch(self, indices: Sequence[int]) -> dict[str, Any]:
        return self.finish(self.gather(indices))

    def hold(self, device: torch.device) -> bool:
        return device.type == "cpu" and self._cache is not None

    def _training_pair(
        self, image: np.ndarray, target: np.ndarray, record: SliceRecord, index: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        # Philox starts in 8 us; the Mersenne Twister needs 280. MONAI wants a RandomState around it.
        generator = np.random.RandomState(np.random.Philox(key=[self.seed, self.epoch << 32 | index]))
        side = self._side
        top, left = crop_corner(target, side, generator if self.crop_mode == "foreground" else None)
        image, target = (array[top : top + side, left : left + side] for array in (image, target))
        image = normalize(image, self.window, record.mean, record.std)
        return self._augment(*self._to_tensors(image, target, (side, side)), generator)

    def _to_tensors(
        self, image: np.ndarray, target: np.ndarray, size: tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        image, target = pad_center(image, size, pad_value(self.window)), pad_center(target, size)
        return torch.from_numpy(image)[None], torch.from_numpy(target)[None]

    def _read(self, record: SliceRecord) -> tuple[np.ndarray, np.ndarray]:
        image, label = read_slice(record.path)
        return image, self._lookup[label]

    def _largest_side(self) -> int:
        """Side of the smallest square, a multiple of 32, that holds every case of this split."""
        first = {record.case: record for record in reversed(self.records)}.values()
        return next_multiple(max(max(read_slice(record.path)[0].shape) for record in first))

    def _decoded(self, budget: int) -> list[tuple[np.ndarray, np.ndarray]] | None:
        """All slices of this split, or None when they take more than `budget` bytes."""
        size = 0
        for case_indices in self.case_indices().values():
            if not case_indices:
                continue
            image, target = self._read(self.records[case_indices[0]])  # the slices of a case are of one size
            size += (image.nbytes + target.nbytes) * len(case_indices)
            if size > budget:
                return None
        return [self._read(record) for record in self.records]


def _choice(what: str, value: str, choices: Sequence[str]) -> str:
    if value not in choices:
        raise ValueError(f"{what} {value!r} is unknown: choose from {', '.join(choices)}")
    return value


def _checked_window(window: Sequence[float] | str | None, modality: str) -> tuple[float, float] | None:
    if window == "auto":
        return DEFAULT_CT_WINDOW if modality == "CT" else None
    if window is None:
        return None
    if modality != "CT":
        raise ValueError(f"window {window} is in HU, these slices are {modality}: leave it out for a z-score per case")
    if isinstance(window, str) or len(window) != 2 or not window[0] < window[1]:
        raise ValueError(f"window {window!r} is not a range of HU: give [lower, upper], e.g. [-200, 300]")
    return float(window[0]), float(window[1])


def _classes(
    task: str, labels: dict[int, str], tumor_labels: Sequence[int], dataset: str
) -> tuple[list[str], dict[int, int]]:
    """Names of the foreground classes, and the class of every label value that is foreground."""
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


def _listed(labels: dict[int, str]) -> str:
    return ", ".join(f"{value} {name}" for value, name in sorted(labels.items()))
