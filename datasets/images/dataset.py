"""Images with one label each, wherever they are kept, as samples for a classification network."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import Dataset

from datasets.fingerprints import Digests, image_digests
from datasets.images.decoding import UnreadableImageError, refuse_any
from datasets.images.smote import check_memory, oversample, read_distribution
from datasets.images.transforms import NO_AUGMENTATION, Augmentation, as_json, generator_of, preparation
from datasets.splits import SPLITS, split_sha256

DEFAULT_SIZE = 224
DECODERS = 8  # threads; Pillow decodes without Python's lock


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
        seed: Seed of augmentation and SMOTE.

    Raises ValueError for a balance that is unknown, or asked for beside SMOTE.
    """

    image_size: int | None = None
    in_channels: Literal[1, 3] = 3
    normalization: Literal["imagenet", "half", "none"] = "imagenet"
    augment: Augmentation = NO_AUGMENTATION
    balance: Literal["none", "sampler"] = "none"
    smote: str | None = None
    smote_mb: int = 4096
    cache_mb: int = 1024
    seed: int = 0

    def __post_init__(self) -> None:
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
        _check_patients(self._split_patients)
        self.split_sha256 = split_sha256(self._split_patients)
        side = DEFAULT_SIZE if options.image_size is None else options.image_size
        self.preparation = preparation(side, options.in_channels, options.normalization)
        self.records, self._read, self._content = list(records), read, content or read
        self._stored, self.notes = len(self.records), list(notes)
        size = len(self.records) * side**2 * options.in_channels
        self._images = self._decoded() if size <= options.cache_mb * 2**20 else None
        training = split == "train"
        if training and options.smote is not None:
            self._oversample(Path(options.smote), options.smote_mb)
        self._augment = options.augment if training and options.augment != NO_AUGMENTATION else None
        self.cases = [record.case for record in self.records]
        self.sampling_weights = self._weights() if training and options.balance == "sampler" else None
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    @property
    def patients(self) -> list[str]:
        """Patients of this split; images made by SMOTE belong to none."""
        return self._split_patients[self.split]

    @property
    def epoch(self) -> int:
        """Epoch whose random augmentations are drawn; in memory shared with the loader's workers."""
        return int(self._epoch)

    @epoch.setter
    def epoch(self, value: int) -> None:
        self._epoch.fill_(value)

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
        number = index % len(self)
        record = self.records[number]
        image = self._resized(record) if self._images is None else self._images[number]
        if self._augment is not None:
            image = self._augment(image, generator_of(self.seed, self.epoch, index))
        target = torch.tensor(record.label, dtype=torch.int64)
        return {"image": self.preparation.normalize(image), "target": target, "case": record.case}

    def gather(self, indices: Sequence[int]) -> dict[str, Any]:
        samples = [self[index] for index in indices]
        raw = {key: torch.stack([sample[key] for sample in samples]) for key in ("image", "target")}
        return raw | {"case": [sample["case"] for sample in samples]}

    def finish(self, raw: dict[str, Any]) -> dict[str, Any]:
        return raw

    def batch(self, indices: Sequence[int]) -> dict[str, Any]:
        return self.finish(self.gather(indices))

    def hold(self, device: torch.device) -> bool:
        return device.type == "cpu" and self._images is not None

    def _resized(self, record: ImageRecord) -> np.ndarray:
        return self.preparation.resize(self._read(record))

    def _decoded(self) -> np.ndarray:
        """All images of this split, uint8 (N, S, S, C)."""
        side = self.preparation.image_size
        images = np.empty((len(self.records), side, side, self.in_channels), np.uint8)

        def read(index: int) -> str | None:
            try:
                images[index] = self._resized(self.records[index])
            except UnreadableImageError as error:
                return str(error)
            return None

        with ThreadPoolExecutor(DECODERS) as pool:
            refuse_any([problem for problem in pool.map(read, range(len(images))) if problem])
        return images

    def _oversample(self, file: Path, limit_mb: int) -> None:
        """Read every image, and add those that SMOTE makes of them."""
        wanted = read_distribution(file, self.class_names, self.class_counts)
        check_memory(self.class_counts, wanted, self.preparation.image_size**2 * self.in_channels, limit_mb)
        images = self._decoded() if self._images is None else self._images
        labels = np.array(self.labels)
        made, made_labels = oversample(images, labels, wanted, self.class_names, self.seed)
        self._images = np.concatenate([images, made])
        self.records += [
            ImageRecord(f"smote_{number:05d}", "synthetic", int(label)) for number, label in enumerate(made_labels)
        ]

    def _weights(self) -> torch.Tensor:
        """One weight an image: every class of this split is drawn equally often."""
        counts = self.class_counts
        return torch.tensor([1 / counts[label] for label in self.labels], dtype=torch.float64)


def _check_patients(patients: Mapping[str, Sequence[str]]) -> None:
    split_of: dict[str, str] = {}
    for name in SPLITS:
        for patient in patients[name]:
            if split_of.setdefault(patient, name) != name:
                raise ValueError(
                    f"patient {patient} is in {split_of[patient]} and {name}: a patient belongs to one split"
                )
