"""Whether the files of a slice store agree: split.json, index.csv, dataset.json and the records of its cases."""

from itertools import groupby
from pathlib import Path
from typing import Any

from datasets.slices.store import SliceRecord, read_case
from datasets.splits import SPLITS, read_split, split_sha256

SLICE_AGAIN = "slice again, and give a split.json that was edited with --split_file and --overwrite"


def check_consistent(root: Path, index: list[SliceRecord], manifest: dict[str, Any]) -> None:
    """Raise ValueError for a store that contradicts itself: one edited by hand, or left by a killed run.

    Every patient must be in one split, that of split.json, whose hash dataset.json holds; dataset.json must name every
    label; a case must agree with its record (case.json), if it has one.
    """
    split = read_split(root / "split.json")
    split_of = {patient: name for name in SPLITS for patient in split[name]}
    names = {int(value) for value in manifest["labels"]}
    file = root / "index.csv"
    seen: dict[str, str] = {}
    for record in index:
        if unknown := set(record.labels) - names:
            known = ", ".join(f"{value} {name}" for value, name in manifest["labels"].items())
            raise ValueError(f"{record.path} holds label {min(unknown)}, dataset.json knows {known}: slice again")
        if seen.setdefault(record.patient, record.split) != record.split:
            both = f"{seen[record.patient]} and {record.split}"
            raise ValueError(
                f"{file}: patient {record.patient} is in {both}: a patient belongs to one split, slice again"
            )
        if split_of.get(record.patient) != record.split:
            where = f"in {split_of[record.patient]}" if record.patient in split_of else "in no split"
            raise ValueError(
                f"{file}: patient {record.patient} is in {record.split}, and {where} in split.json: {SLICE_AGAIN}"
            )
    if split_sha256(split) != manifest["split_sha256"]:
        raise ValueError(f"{root / 'split.json'}: is not the split that dataset.json was written with: {SLICE_AGAIN}")
    for case, rows in groupby(index, key=lambda record: record.case):
        published = read_case(root / case)
        if published is not None and _said(list(rows)) != _known(published):
            raise ValueError(f"{file}: lists {case} as it was before it was sliced again: run SliceMaker again")


def _said(rows: list[SliceRecord]) -> tuple[list[tuple[int, ...]], str]:
    return [row.labels for row in rows], f"{rows[0].mean:.9g} {rows[0].std:.9g}"


def _known(case: dict[str, Any]) -> tuple[list[tuple[int, ...]], str]:
    statistics = case["statistics"]
    return [tuple(labels) for labels in case["slices"]], f"{statistics['mean']:.9g} {statistics['std']:.9g}"
