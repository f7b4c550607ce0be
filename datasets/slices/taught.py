"""What soft maps answer to the slices of a split: read beside them, and made a network's answer after they moved."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock

import numpy as np
import torch
from torch import Tensor

from datasets.batches.moves import on_device
from datasets.findings import listed
from datasets.fingerprints import fingerprint
from datasets.slices.fingerprints import slice_image_digests
from datasets.slices.soft_classes import match_classes
from datasets.slices.soft_codes import CODES, PROBABILITIES, decode, encode
from datasets.slices.soft_maps import Maps
from datasets.slices.store import SliceRecord

CHECKING = Lock()  # other threads wait for the first slice of a case, with which its maps are checked


def least(num_classes: int) -> float:
    """The probability of which a logarithm is taken where a code says 0, which is all below 3e-5."""
    # At temperature 4, the published one, classes that are ruled out then weigh 0.03 of a sure one together, however
    # many they are. With 1e-6 for each they would leave it 94 % of three classes, and 21 % of 118.
    return 1e-6 / (num_classes - 1) ** 4


@dataclass(frozen=True)
class SoftTeacher:
    """Soft maps as a teacher.

    Args:
        maps: Folders of one teacher, or of several with the same classes: those of a store, and of another one beside
            it.
        classes: The student's name for some of the teacher's classes, see `match_classes`.

    Raises ValueError for a case that two folders hold.
    """

    maps: Sequence[Maps]
    classes: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for number, maps in enumerate(self.maps):
            for other in self.maps[:number]:
                if twice := sorted(maps.cases.keys() & other.cases.keys()):
                    raise ValueError(
                        f"teacher.maps: {other.folder} and {maps.folder} both hold {listed(twice)}: remove the "
                        "files of these cases from one of them, or give one folder"
                    )

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.maps[0].classes

    def of(self, case: str) -> Maps | None:
        """The folder that holds a case."""
        return next((maps for maps in self.maps if case in maps.cases), None)

    def sha256(self, cases: Iterable[str]) -> str:
        """The hash of the maps of these cases, wherever they lie."""
        held = {case: maps.cases[case] for case in cases if (maps := self.of(case)) is not None}
        return fingerprint({case: (each.digest, each.content) for case, each in held.items()}, self.class_names)


class Taught:
    """The soft maps of a split, slice by slice.

    A slice has a channel for each class that both have and, before several, one for all that is not background: 0
    everywhere, as padding has it, is background. Classes of the teacher that are one to the student are added up. Where
    the student has a class that the teacher lacks, the labels say where it is.

    Args:
        records: All stored slices of the split, those of a case in their order.
        class_names: The student's foreground classes.
        labels: The class that each label name of the store is to the student.
        needed: Whether every case must have maps; else `cases` are those that do.

    Attributes:
        matrix: See `match_classes`.
        channels: How many channels a slice has.

    Raises ValueError for cases without maps, and for those whose slices have changed since the maps were made.
    """

    def __init__(
        self,
        teacher: SoftTeacher,
        records: Sequence[SliceRecord],
        class_names: Sequence[str],
        labels: Mapping[str, str],
        needed: bool,
    ) -> None:
        self.matrix = match_classes(teacher.class_names, class_names, teacher.classes, labels)
        of = {case: teacher.of(case) for case in dict.fromkeys(record.case for record in records)}
        if needed and (missing := [case for case, maps in of.items() if maps is None]):
            raise ValueError(
                f"{teacher.maps[0].folder}: has no soft maps of {len(missing)} of {len(of)} training cases "
                f"({listed(missing)}): make them with scripts/TeachWith.py"
            )
        held = {case: maps for case, maps in of.items() if maps is not None}
        digests = slice_image_digests(record for record in records if record.case in held)
        for case, maps in held.items():
            if maps.cases[case].digest != digests[case]:
                raise ValueError(
                    f"{maps.folder / case}.json: the slices of {case} have changed since its soft maps were made: make "
                    "these again with scripts/TeachWith.py, or give the slices as they were"
                )
        self.cases = list(held)
        # Opened before threads read: NumPy parses headers with `ast`, which fails at times in several threads.
        self._codes = {case: maps.codes(case) for case, maps in held.items()}
        self._held, self._unread = held, dict(held)
        self._places: dict[str, int] = {}
        counts: dict[str, int] = {}
        for record in records:
            self._places[record.file] = counts[record.case] = counts.get(record.case, -1) + 1
        taught = self.matrix.any(axis=0)
        self._merged = [np.flatnonzero(column) for column in self.matrix.T[taught]]
        self._alone = len(self._merged) == 1  # what is not background is that class
        places = np.cumsum(taught) - self._alone
        self._channel_of = [int(place) if known else None for place, known in zip(places, taught, strict=True)]
        self.channels = len(self._merged) + (not self._alone)
        self._lacking = [number for number, known in enumerate(taught, start=1) if not known]
        self._tables: dict[torch.device, Tensor] = {}

    def read(self, record: SliceRecord, size: tuple[int, ...]) -> np.ndarray:
        """The codes of a slice of this size, uint8 (channels, H, W); 0 where its case has no maps.

        With the first slice of a case all its maps are read. Raises ValueError where they are damaged.
        """
        if record.case not in self._codes:
            return np.zeros((self.channels, *size), np.uint8)
        if record.case in self._unread:
            with CHECKING:
                if maps := self._unread.get(record.case):
                    maps.refuse_damaged(record.case)
                    del self._unread[record.case]
        codes, maps = self._codes[record.case][self._places[record.file]], self._held[record.case]
        foreground = codes[maps.background :]
        classes = [_sum(foreground[rows]) for rows in self._merged]
        if self._alone:
            return classes[0][None]
        if maps.background:
            inside = CODES - 1 - _sum(np.concatenate((codes[:1], foreground[~self.matrix.any(axis=1)])))
        else:
            inside = _sum(foreground[self.matrix.any(axis=1)])
        return np.stack((inside, *classes))

    def probabilities(self, codes: Tensor) -> Tensor:
        """The probabilities that codes (B, channels, H, W) stand for, float32, on their device."""
        if codes.device not in self._tables:
            self._tables[codes.device] = on_device(PROBABILITIES, codes.device)
        return self._tables[codes.device].index_select(0, codes.flatten().int()).view(codes.shape)

    def answers(self, probabilities: Tensor, target: Tensor) -> Tensor:
        """Log-probabilities (B, num_classes, H, W) as a network's logits, of moved `probabilities` (B, channels, H, W).

        target: (B, 1, H, W), which says where the classes are that the teacher lacks.

        Each code is off on its own, so what they say of a pixel is divided by its sum. A probability is then at most
        0.01 off, and its logarithm at most 0.07 from 6e-5 on.
        """
        background = 1 - probabilities[:, :1]
        none = torch.zeros_like(background)
        parts = (none if place is None else probabilities[:, place : place + 1] for place in self._channel_of)
        every = torch.cat((background, *parts), 1)
        every = every / every.sum(1, keepdim=True)
        if self._lacking:
            classes = torch.arange(every.shape[1], device=every.device)[:, None, None]
            lacking = torch.stack([target == number for number in self._lacking]).any(0)
            every = torch.where(lacking, (classes == target).float(), every)
        return every.clamp_(least(every.shape[1]), 1).log_()


def _sum(codes: np.ndarray) -> np.ndarray:
    """The code (H, W) of the sum of the probabilities that codes (n, H, W) stand for."""
    return codes[0] if len(codes) == 1 else encode(decode(codes).sum(0).clip(0, 1))
