"""The stored slices of a split: in their files, or decoded in memory or on a device."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch

from datasets.batches.pool import Pool, load, pool_of, room
from datasets.slices.crops import Foreground, foreground_of
from datasets.slices.store import SliceRecord, read_slice
from datasets.slices.taught import Taught


class StoredSlices:
    """Images and targets of slices, read when they are asked for, unless all are kept.

    Args:
        records: Of the slices, those of a case one after the other.
        classes: uint8 (256,), the class of each label value.
        unlabeled: Patients whose labels are not to be used: their targets are 0.
        find_foreground: Fill `foreground` for slices that are read.
        taught: Soft maps, which are kept beside them.
    """

    def __init__(
        self,
        records: Sequence[SliceRecord],
        classes: np.ndarray,
        unlabeled: frozenset[str],
        find_foreground: bool,
        taught: Taught | None = None,
    ) -> None:
        self.records = records
        self.pool: Pool | None = None
        self.foreground: list[Foreground | None] = [None] * len(records)
        self._classes, self._unlabeled, self._find, self._taught = classes, unlabeled, find_foreground, taught

    @cached_property
    def forms(self) -> dict[str, tuple[tuple[int, int], np.dtype]]:
        """Height and width of each case's slices, and how their images are stored: read from the first of each."""
        first = {record.case: record for record in reversed(self.records)}
        images = {case: read_slice(record.path)[0] for case, record in first.items()}
        return {case: (image.shape, image.dtype) for case, image in images.items()}

    @property
    def nbytes(self) -> int:
        """What all decoded slices take."""
        pixels = sum(height * width for height, width in self._sizes())
        return pixels * sum(count * kind.itemsize for count, kind in self._formats().values())

    def read(self, number: int) -> dict[str, np.ndarray]:
        """Image and target (H, W) of a slice from its file, and "codes" (C, H, W) of its soft maps, if any."""
        record = self.records[number]
        image, label = read_slice(record.path)
        target = np.zeros_like(label) if record.patient in self._unlabeled else self._classes[label]
        if self._find:
            self.foreground[number] = foreground_of(target)
        codes = {} if self._taught is None else {"codes": self._taught.read(record, image.shape)}
        return {"image": image, "target": target, **codes}

    def keep(self, device: torch.device) -> bool:
        """Decode all slices into the memory of a device, or move them there; False where it does not suffice."""
        try:
            if self.pool is not None:
                self.pool = self.pool.to(device)
            else:
                self.pool = load(self._read_alike, self._sizes(), self._formats(), device)
        except torch.OutOfMemoryError:
            return False
        return True

    def hold(self, device: torch.device, device_gb: float | None) -> bool:
        """Keep all slices on a GPU, if they fit so many GB or half of what is free; False where they stay elsewhere.

        On a CPU it only says whether they are in memory.
        """
        if self.pool is not None and self.pool.lies_on(device):
            return True
        return device.type != "cpu" and self.nbytes <= room(device, device_gb) and self.keep(device)

    def find(self, places: np.ndarray) -> tuple[Pool, np.ndarray]:
        """A pool that holds the slices of these numbers, (B, channels), and their numbers in it.

        A slice that several of them need is read once.
        """
        if self.pool is not None:
            return self.pool, places
        read = self.read if places.shape[1] == 1 else self._read_alike
        numbers, rows = np.unique(places, return_inverse=True)
        return pool_of([read(number) for number in numbers.tolist()]), rows.reshape(places.shape)

    def _sizes(self) -> list[tuple[int, int]]:
        return [self.forms[record.case][0] for record in self.records]

    def _formats(self) -> dict[str, tuple[int, np.dtype]]:
        """How many channels each part of a slice has, and how its numbers are stored."""
        image, byte = np.result_type(*{kind for _, kind in self.forms.values()}), np.dtype(np.uint8)
        codes = {} if self._taught is None else {"codes": (self._taught.channels, byte)}
        return {"image": (1, image), "target": (1, byte), **codes}

    def _read_alike(self, number: int) -> dict[str, np.ndarray]:
        """`read`, of the size that the case's first slice has."""
        sample, record = self.read(number), self.records[number]
        size = self.forms[record.case][0]
        for part, values in sample.items():
            if (shape := values.shape[-2:]) != size:
                raise ValueError(
                    f"{record.path}: its {part} is {shape[0]} x {shape[1]} pixels, the first slice of "
                    f"{record.case} {size[0]} x {size[1]}: slice the case again with scripts/SliceMaker.py"
                )
        return sample
