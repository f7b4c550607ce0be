"""Which slices of a store, and of a pool beside it, a split is made of, and whose labels are held back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets.slices.arguments import SPLITS
from datasets.slices.consistency import check_consistent
from datasets.slices.pooled import pooled_slices
from datasets.slices.selection import thinned, unlabeled_patients
from datasets.slices.store import SliceRecord, read_index


@dataclass(frozen=True)
class Members:
    """The slices of a split.

    Args:
        patients: Those of each split, with those of the pool in train.
        every: All stored slices, those of a case in order; `samples` are left after thinning.
        unlabeled: The training patients whose labels are held back, or that have none.
        notes: A line about the pool, if there is one.
    """

    patients: Mapping[str, list[str]]
    every: list[SliceRecord]
    samples: list[SliceRecord]
    unlabeled: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()


def find_members(
    root: Path,
    split: str,
    manifest: Mapping[str, Any],
    foreground: set[int],
    pool: Path | None,
    labeled: float,
    thin_background: float,
    seed: int,
) -> Members:
    """The slices of a split of the store `root`, whose dataset.json is `manifest`; see `SliceDataset` for the rest.

    foreground: the label values that are classes. Raises ValueError for a store or pool that cannot be used, a split
    without slices, and thinning where nobody knows which slices have foreground.
    """
    index = read_index(root)
    check_consistent(root, index, manifest)
    patients = {name: sorted({record.patient for record in index if record.split == name}) for name in SPLITS}
    own, pooled = patients[split], []
    if pool is not None and split == "train":
        pooled = pooled_slices(pool, root, index, manifest)
    others = frozenset(record.patient for record in pooled)
    patients[split] = sorted({*own, *others})
    every = sorted((r for r in [*index, *pooled] if r.split == split), key=lambda record: (record.case, record.slice))
    if not every:
        raise ValueError(f"{root / 'index.csv'} has no {split} slices: slice again with another --split")
    if split != "train":
        return Members(patients, every, every)
    unlabeled = others | unlabeled_patients(own, labeled if manifest["labels"] else 0.0)
    if thin_background < 1 and len(unlabeled) == len(patients[split]):
        raise ValueError(f"thin_background {thin_background}: no label says which slices it is: leave it out")
    samples = thinned(every, foreground, thin_background, seed, unlabeled)
    if not samples:
        raise ValueError("no training slice has foreground and thin_background is 0: raise it")
    notes = (f"pool: {len(pooled)} slices of {pool} as unlabeled ones",) if pooled else ()
    return Members(patients, every, samples, unlabeled, notes)
