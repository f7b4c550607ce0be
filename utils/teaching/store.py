"""The cases of a slice store that a teacher is asked about, their images, and the grids that they lie on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from datasets.json_files import read_json
from datasets.slices.resampling import Grid, grid_of
from datasets.slices.sources import read_again
from datasets.slices.store import SliceRecord, read_case, read_index, read_manifest, read_slice
from datasets.splits import SPLITS
from datasets.volumes.geometry import to_slices
from datasets.volumes.nifti import UnreadableVolumeError


@dataclass(frozen=True)
class StoreCase:
    """One case of a store: its patient, its split, and its stored slices from inferior to superior."""

    name: str
    patient: str
    split: str
    modality: str
    records: tuple[SliceRecord, ...]

    @property
    def folder(self) -> Path:
        return self.records[0].path.parent

    @cached_property
    def geometry(self) -> dict[str, Any]:
        """The content of geometry.json."""
        return read_json(self.folder / "geometry.json")

    @property
    def grid(self) -> Grid:
        return grid_of(self.geometry)

    def stored_image(self) -> np.ndarray:
        """The stored slices (S, H, W), as read: int16 HU or float."""
        return np.stack([read_slice(record.path)[0] for record in self.records])

    def stored_label(self) -> np.ndarray:
        """The stored label values (S, H, W) uint8."""
        return np.stack([read_slice(record.path)[1] for record in self.records])

    def source_image(self) -> np.ndarray:
        """The image on the grid of its source, (slices, rows, columns): int16 HU, or float.

        The store has it, unless it is a resampled one: a teacher of finer voxels then sees what the store was made of.
        Raises ValueError where that is not there any more, or has changed.
        """
        if not self.grid.is_resampled:
            return self.stored_image()
        record = read_case(self.folder) or {}
        again = f"the store is resampled, and {self.name} must be read from its source: put it back, or slice again"
        try:
            source, channel = record["sources"]["image"], record["settings"].get("channel")
            image = read_again(file := Path(source["file"]), self.modality, channel or 0, source.get("sha256"))
        except (KeyError, TypeError):
            raise ValueError(f"{self.folder}: does not say what it was sliced from: {again}") from None
        except OSError as error:
            raise ValueError(f"{file}: {error.strerror or error}: {again}") from None
        except UnreadableVolumeError as error:
            raise ValueError(f"{error.path}: {error.what}: {again}") from None
        return to_slices(image.array.T, self.geometry["axes"], self.geometry["flips"])


@dataclass(frozen=True)
class Store:
    """A slice store: the cases of the wanted splits; of all splits the patients, and the patient of each case."""

    root: Path
    manifest: dict[str, Any]
    patients: dict[str, list[str]]
    patient_of: dict[str, str]
    cases: tuple[StoreCase, ...]


def read_store(root: Path, splits: Sequence[str]) -> Store:
    """Read a slice store. Raises ValueError where the folder is not one, or holds no case of these splits."""
    root = root.absolute()
    manifest, index = read_manifest(root), read_index(root)
    records: dict[str, list[SliceRecord]] = {}
    for record in index:
        records.setdefault(record.case, []).append(record)
    cases = [
        StoreCase(
            case, each[0].patient, each[0].split, manifest["modality"], tuple(sorted(each, key=lambda one: one.slice))
        )
        for case, each in sorted(records.items())
    ]
    wanted = tuple(case for case in cases if case.split in splits)
    if not wanted:
        raise ValueError(f"{root}: holds no case of {' or '.join(splits)}: choose other --splits")
    patients = {name: sorted({case.patient for case in cases if case.split == name}) for name in SPLITS}
    return Store(root, manifest, patients, {case.name: case.patient for case in cases}, wanted)
