"""Slices of another store beside the training slices of a labeled one: more images for a teacher, without labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from datasets.findings import listed
from datasets.slices.consistency import check_consistent
from datasets.slices.fingerprints import slice_image_digests
from datasets.slices.store import SliceRecord, read_index, read_manifest

SAME = ("modality", "spacing", "slice_spacing")


def pooled_slices(
    pool: Path, root: Path, index: Sequence[SliceRecord], manifest: Mapping[str, Any]
) -> list[SliceRecord]:
    """The training slices of a pool, whose labels, if it has any, are not used.

    index, manifest: of the labeled store `root`. Raises ValueError for a pool of another modality or of other
    millimeters, and for one that shares a case, a patient, or under whatever name a scan that `root` holds out.
    """
    other, everything = read_manifest(pool), read_index(pool)
    check_consistent(pool, everything, other)
    for key in SAME:
        theirs, ours = (each.get(key) or "native" for each in (other, manifest))
        if theirs != ours:
            raise ValueError(f"data.pool {pool}: its {key} is {theirs}, that of {root} is {ours}: slice both alike")
    records = [replace(record, labels=()) for record in everything if record.split == "train"]
    if not records:
        raise ValueError(f"data.pool {pool}: has no train slices: slice it again with another --split")
    remedy = "take them out of the pool, whose scans must be of other patients"
    for what in ("case", "patient"):
        split_of = {getattr(record, what): record.split for record in index}
        if shared := sorted({getattr(record, what) for record in records} & split_of.keys()):
            names = listed([f"{name} in {split_of[name]}" for name in shared])
            raise ValueError(f"data.pool {pool}: {root} has a {what} of this name as well ({names}): {remedy}")
    held_out = [record for record in index if record.split != "train"]
    scans = {content: case for case, content in slice_image_digests(held_out).items()}
    for case, content in slice_image_digests(records).items():
        if content in scans:
            raise ValueError(f"data.pool {pool}: {case} is the scan {scans[content]}, which {root} holds out: {remedy}")
    return records
