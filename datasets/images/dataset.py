"""Images with one label each, wherever they are kept, as samples for a classification network."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import Dataset

from datasets.batches.draws import Draws
from datasets.batches.moves import VIEWS, exact_moves, moved, on_device
from datasets.batches.pool import Pool, check_device_gb, load, pool_of, room
from datasets.fingerprints import Digests, image_digests
from datasets.images.augmentation import CHANGES, COLUMNS, NO_AUGMENTATION, Augmentation
from datasets.images.decoding import UnreadableImageError, refuse_any
from datasets.images.smote import check_memory, oversample, read_distribution
from datasets.images.transforms import as_json, preparation
from datasets.splits import SPLITS, check_patients, split_sha256

DEFAULT_SIZE = 224
HOST = torch.device("cpu")
KEPT = ("target", "case", "view")  # of what is gathered, beside the images


@dataclass(frozen=True)
class ImageRecord:
    """One image: its name, its patient, its class, and where `read` finds it (a path, a key, a row)."""

    case: str
    patient: str
    label: int
    source: str | int = ""


@dataclass(frozen=True)
class ImageOptions:
    """How labeled images become samples; every collection of images takes these beside its own arguments.

    Args:
        image_size: Side in pixels every image is resized to; see `datasets.images.transforms.Preparation`. None: 224,
            or the stored size where a collection has one.
        in_channels: 3 or 1.
        normalization: `imagenet`: ImageNet's mean and standard deviation; `half`: [-1, 1]; `none`: [0, 1].
        augment: Random changes to training images.
        balance: `sampler`: `sampling_weights` draws every class equally often; `none`: each image once an epoch.
        smote: File of counts that training is oversampled to; see `datasets.images.smote`.
        smote_mb: Most memory that oversampling may take.
        cache_mb: Keep the resized images in memory if all of this split fits in so many megabytes (per process started
            with DDP; forked loader workers share it); 0 reads them each time.
        device_gb: Keep them on the GPU instead, where all of this split fits in so many gigabytes (10^9 bytes) of its
            memory; None: in half of what is free there.
        seed: Seed of augmentation and SMOTE.

    Raises ValueError for a balance that is unknown, or asked for beside SMOTE, and a negative device_gb.
    """

    image_size: int | None = None
    in_channels: Literal[1, 3] = 3
    normalization: Literal["imagenet", "half", "none"] = "imagenet"
    augment: Augmentation = NO_AUGMENTATION
    balance: Literal["none", "sampler"] = "none"
    smote: str | None = None
    smote_mb: int = 4096
    cache_mb: int = 1024
    device_gb: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_device_gb(self.device_gb)
        if self.balance not in ("none", "sampler"):
            raise ValueError(f"balance {self.balance!r} is unknown: choose from none, sampler")
        if self.balance == "sampler" and self.smote is not None:
            raise ValueError("balance sampler and smote both even out the classes: choose one")


DEFAULT_OPTIONS = ImageOptions()


class LabeledImages(Dataset):
    """Images of one split as `{"image" (C, S, S) float32, "target" () int64, "case"}`.

    The random numbers of sample i in epoch e depend on (seed, e, i) only: the same for any number of workers, ranks and
    restarts. Set `epoch` before each epoch; it is shared with worker processes, persistent ones too. Val and test
    images are never augmented, weighted or made up.

    Args:
        records: The images of this split.
        read: Returns a record's image, uint8 (H, W), (H, W, 1) or (H, W, 3); must be picklable.
        class_names: All classes; a label is an index into them.
        split: `train`, `val` or `test`.
        patients: The patients of all three splits.
        options: See `ImageOptions`.
        content: Returns the bytes that a record's image is decoded from, for `digests`; None: its pixels are taken.
        notes: Lines for the person who trains on them, such as what was passed over.

    Raises ValueError for a split without images, a patient in two splits, and options out of range.
    """

    has_labels = True
    unlabeled: frozenset[str] = frozenset()  # every image has its class
    labeled: torch.Tensor | None = None

    def __init__(
        self,
        records: Sequence[ImageRecord],
        read: Callable[[ImageRecord], np.ndarray],
        class_names: Sequence[str],
        split: str,
        patients: Mapping[str, Sequence[str]],
        options: ImageOptions = DEFAULT_OPTIONS,
        content: Callable[[ImageRecord], bytes] | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"split {split!r} is unknown: choose from {', '.join(SPLITS)}")
        if not records:
            raise ValueError(f"the {split} split has no images: check the data's layout (docs/data.md)")
        self.split, self.seed, self.class_names = split, options.seed, list(class_names)
        self.num_classes, self.in_channels = len(self.class_names), options.in_channels
        self._split_patients = {name: sorted(patients[name]) for name in SPLITS}
        check_patients(self._split_patients)
        self.split_sha256 = split_sha256(self._split_patients)
        side = DEFAULT_SIZE if options.image_size is None else options.image_size
        self.preparation = preparation(side, options.in_channels, options.normalization)
        self.records, self._read, self._content = list(records), read, content or read
        self._stored, self.notes = len(self.records), list(notes)
        self._device_gb = options.device_gb
        self._pool = self._loaded(HOST) if self._nbytes <= options.cache_mb * 2**20 else None
        training = split == "train"
        if training and options.smote is not None:
            self._oversample(Path(options.smote), options.smote_mb)
        self._augment = options.augment if training and options.augment != NO_AUGMENTATION else None
        self.views = 1 if self._augment is None else self._augment.views
        self.cases = [record.case for record in self.records]
        self.sampling_weights = self._weights() if training and options.balance == "sampler" else None
        self._labels = np.array(self.labels, np.int64)
        self._draws = Draws(len(self), len(COLUMNS), options.seed)

    @property
    def patients(self) -> list[str]:
        """Patients of this split; images made by SMOTE belong to none."""
        return self._split_patients[self.split]

    @property
    def epoch(self) -> int:
        """Epoch whose random augmentations are drawn; in memory shared with the loader's workers."""
        return self._draws.epoch

    @epoch.setter
    def epoch(self, value: int) -> None:
        self._draws.epoch = value

    @property
    def labels(self) -> list[int]:
        """The class of each image."""
        return [record.label for record in self.records]

    @property
    def class_counts(self) -> list[int]:
        """Images of each class in this split, those made by SMOTE included."""
        counts = Counter(self.labels)
        return [counts[label] for label in range(self.num_classes)]

    @property
    def preprocessing(self) -> dict[str, Any]:
        """All that is needed to feed a new image to a network trained on this, as plain JSON values."""
        return {"kind": "image", "class_names": self.class_names, **as_json(self.preparation)}

    @cached_property
    def digests(self) -> Digests:
        """What each image of this split holds and its class, without those made up; see `datasets.fingerprints`."""
        stored = self.records[: self._stored]
        targets = [self.class_names[record.label] for record in stored]
        return image_digests([record.case for record in stored], lambda n: self._content(stored[n]), targets)

    def split_patients(self, split: str) -> list[str]:
        """Patients of `split`."""
        if split not in SPLITS:
            raise ValueError(f"split {split!r} is unknown: choose from {', '.join(SPLITS)}")
        return list(self._split_patients[split])

    def case_indices(self) -> dict[str, list[int]]:
        """The index of each case's image, in a list as for cases of many slices."""
        return {case: [index] for index, case in enumerate(self.cases)}

    @property
    def sizes(self) -> dict[str, tuple[int, int]]:
        """All images are resized to one square."""
        return dict.fromkeys(self.cases, (self.preparation.image_size,) * 2)

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Each image once; without this, iterating by index would never end, see `__getitem__`."""
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Image (C, S, S) float32, target () int64 and case.

        `index + n * len(self)` is the n-th repetition of an image in an epoch: the same image, augmented otherwise.
        """
        return {name: values[0] for name, values in self.batch([index]).items()}

    def gather(self, indices: Sequence[int]) -> dict[str, Any]:
        """Images uint8 (B, C, S, S), flipped and turned; targets and cases; and how `finish` is to change the images.

        They are on the device that holds the split, or on the host. See `Samples` for "view".
        """
        places = np.asarray(indices, np.int64) % len(self)
        rows, pool = places, self._pool
        if pool is None:
            rows, pool = np.arange(len(places)), pool_of([self._resized(place) for place in places.tolist()])
        device, side, changes = pool.device, self.preparation.image_size, {}
        flips = turns = None
        if self._augment is not None:
            drawn = self._draws(indices)
            flips, turns = self._augment.flips_and_turns(drawn)
            changes = {name: on_device(table, device) for name, table in self._augment.changes(drawn, side).items()}
        sides = np.full(len(places), side)
        moves = exact_moves(sides, sides, np.zeros((len(places), 2), np.int64), (side, side), flips, turns)
        target = on_device(self._labels[places], device)
        raw = moved(pool, rows, moves) | {"target": target, "case": [self.cases[place] for place in places.tolist()]}
        if self.views:
            raw["view"] = (VIEWS * places + moves.view).tolist()
        return raw | changes

    def finish(self, raw: dict[str, Any]) -> dict[str, Any]:
        """The batch (B, C, S, S) float32, of what `gather` returned, on its device and without waiting for that."""
        image = raw["image"]
        if self._augment is not None:
            image = self._augment(image, {name: raw[name] for name in CHANGES if name in raw})
        return {"image": self.preparation.normalize(image), **{key: raw[key] for key in KEPT if key in raw}}

    def batch(self, indices: Sequence[int]) -> dict[str, Any]:
        """What `finish` makes of what `gather` finds."""
        return self.finish(self.gather(indices))

    def hold(self, device: torch.device) -> bool:
        """Keep the images on a GPU, if they fit `device_gb`; False where they stay where they are.

        On a CPU it only says whether they are in memory: `cache_mb` decides that.
        """
        if self._pool is not None and self._pool.lies_on(device):
            return True
        if device.type == "cpu" or self._nbytes > room(device, self._device_gb):
            return False
        try:
            self._pool = self._loaded(device) if self._pool is None else self._pool.to(device)
        except torch.OutOfMemoryError:
            return False
        return True

    @property
    def _nbytes(self) -> int:
        return len(self) * self.preparation.image_size**2 * self.in_channels

    def _resized(self, place: int) -> dict[str, np.ndarray]:
        return {"image": self.preparation.resize(self._read(self.records[place])).numpy()}

    def _loaded(self, device: torch.device) -> Pool:
        """All images of this split, uint8 (C, S, S) each, in the memory of a device."""
        problems: dict[int, str] = {}

        def read(place: int) -> dict[str, np.ndarray]:
            try:
                return self._resized(place)
            except UnreadableImageError as error:
                problems[place] = str(error)
                return {}

        side = self.preparation.image_size
        formats = {"image": (self.in_channels, np.dtype(np.uint8))}
        pool = load(read, [(side, side)] * len(self), formats, device)
        refuse_any([problems[place] for place in sorted(problems)])
        return pool

    def _oversample(self, file: Path, limit_mb: int) -> None:
        """Read every image, and add those that SMOTE makes of them."""
        wanted = read_distribution(file, self.class_names, self.class_counts)
        check_memory(self.class_counts, wanted, self.preparation.image_size**2 * self.in_channels, limit_mb)
        pool = self._pool or self._loaded(HOST)
        side = self.preparation.image_size
        images = pool.parts["image"].numpy().reshape(-1, self.in_channels, side, side)
        labels = np.array(self.labels)
        made, made_labels = oversample(images, labels, wanted, self.class_names, self.seed)
        self._pool = pool_of([{"image": image} for image in (*images, *made)])
        self.records += [
            ImageRecord(f"smote_{number:05d}", "synthetic", int(label)) for number, label in enumerate(made_labels)
        ]

    def _weights(self) -> torch.Tensor:
        """One weight an image: every class of this split is drawn equally often."""
        counts = self.class_counts
        return torch.tensor([1 / counts[label] for label in self.labels], dtype=torch.float64)
