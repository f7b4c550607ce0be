"""The recipe of a student for scans that nobody labeled: sizes by the slices, foreground where its teacher finds it.

What the student sees (window, neighbors) is what a checkpoint of ours sees; where the teacher is another program's, it
is chosen as for labeled data, from the millimeters of the scans and from the HU within the teacher's foreground.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from datasets.findings import listed
from datasets.slices.soft_codes import decode
from datasets.slices.soft_maps import Maps, read_maps
from datasets.slices.store import SliceRecord, read_index, read_slice
from datasets.slices.transforms import next_multiple
from datasets.splits import DEFAULT_RATIOS, split_patients
from datasets.volumes.dicom import open_series
from datasets.volumes.geometry import orient
from datasets.volumes.layouts import find_cases
from datasets.volumes.layouts.cases import Modality
from datasets.volumes.nifti import UnreadableVolumeError, read_header
from utils.planning.choices import (
    Choice,
    PixelGrid,
    augmentation_of,
    batch_of,
    choose_window,
    median_spacing,
    neighbors_of,
    schedule_of,
)
from utils.planning.fingerprint import Fingerprint, look
from utils.planning.recipes import METRIC, network_section
from utils.planning.sources import MOST_SLICES, of_store
from utils.recipe.methods import method_file

METHOD = "dice_semimetric"  # reads logits alone, which is what maps hold
LARGEST_CROP = 384
SEEN = ("window", "neighbors", "neighbor_mm")  # what a student sees as its teacher does


def spacing_of_scans(scans: Path, modality: Modality | None, seed: int) -> float | None:
    """mm in plane to resample scans to before they are sliced; None where their pixels are alike.

    By the training cases of the split that SliceMaker.py makes with this seed. What cannot be read is left to it.
    """
    raw = find_cases("unlabeled", scans, None, modality)
    split = split_patients([case.patient for case in raw.cases], DEFAULT_RATIOS, seed)
    found = []
    for case in raw.cases:
        try:
            header = read_header(case.image) if case.series is None else open_series(case.series).header
            axes, _ = orient(header.affine, raw.slice_axis)
        except (UnreadableVolumeError, OSError, ValueError):
            continue
        if case.patient in split["train"]:
            found.append(sum(header.spacing[axis] for axis in axes[1:]) / 2)
    return median_spacing(found).value if found else None


def recipe_without_labels(
    store: Path,
    maps: Path,
    output: Path,
    teacher: Mapping[str, Any] | None,
    network: str,
    seed: int,
    epochs: int | None,
) -> tuple[dict[str, Any], dict[str, Choice]]:
    """What train_kd.py runs to learn from the soft maps of a store, and why its student sees what it sees.

    teacher: the preprocessing of its checkpoint; None where it is no checkpoint of ours. Raises ValueError where the
    store cannot be read, and where the teacher finds nothing in its training cases.
    """
    records = [record for record in read_index(store) if record.split == "train"]
    if not records:
        raise ValueError(f"{store}: has no train slices: give more scans")
    first = {record.case: record for record in reversed(records)}
    side = max(max(read_slice(record.path)[0].shape) for record in first.values())
    crop = min(next_multiple(side), (teacher or {}).get("crop") or LARGEST_CROP)
    batch = batch_of(crop, len(records)).value
    planned, rate = schedule_of(len(records), batch)
    terms = yaml.safe_load(method_file(METHOD).read_text(encoding="utf-8"))["distillation"]
    chosen = _chosen(_taught(store, read_maps(maps), records), teacher)
    recipe = {
        "output": str(output),
        "seed": seed,
        "data": {
            "name": "slices",
            "root": str(store),
            "crop": crop,
            **{key: each.value for key, each in chosen.items()},
        },
        "network": network_section(network, crop),
        "task_loss": None,
        "metric": METRIC,
        "teacher": {"maps": str(maps)},
        "method": METHOD,
        "distillation": terms,
        "training": {"epochs": epochs or planned.value, "batch_size": batch, "learning_rate": rate.value},
    }
    return recipe, {f"data.{key}": choice for key, choice in chosen.items()}


def _chosen(fingerprint: Fingerprint, teacher: Mapping[str, Any] | None) -> dict[str, Choice]:
    """Keys of the recipe's data section."""
    augment = {"augment": augmentation_of(fingerprint)}
    if teacher is not None:
        return augment | {key: Choice(teacher[key], "as its teacher has it") for key in SEEN if key in teacher}
    neighbors, distance = neighbors_of(fingerprint, PixelGrid())
    chosen = augment | {"window": choose_window(fingerprint), "neighbors": neighbors}
    return chosen | ({} if distance.value is None else {"neighbor_mm": distance})


def _taught(store: Path, maps: Maps, records: list[SliceRecord]) -> Fingerprint:
    """The fingerprint of a store whose labels are what its soft maps find most probable. records: to train on.

    Raises ValueError where they find nothing.
    """
    known, by_case = of_store(store, None), {}
    for record in sorted(records, key=lambda record: record.slice):
        by_case.setdefault(record.case, []).append(record)
    cases = [
        replace(case, foreground=look(_answers(maps, by_case[case.case])) if case.case in by_case else None)
        for case in known.cases
    ]
    labels = dict(enumerate(maps.classes, start=1))
    taught = replace(known, task="all", labels=labels, tumor_labels=[], cases=cases)
    if not taught.with_foreground:
        raise ValueError(
            f"{maps.folder}: the teacher finds no {' or '.join(maps.classes[:9])} in {len(by_case)} training scans "
            f"({listed(sorted(by_case))}): are they scans of what it has learned?"
        )
    return taught


def _answers(maps: Maps, records: list[SliceRecord]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Some slices of a case in which a class may be the most probable, each with the class of every pixel (H, W)."""
    codes = maps.slices(records[0].case)
    likely = [place for place, each in enumerate(codes) if decode(each.max()) * (len(maps.classes) + 1) > 1]
    for place in np.unique(np.linspace(0, len(likely) - 1, MOST_SLICES).round().astype(int)) if likely else ():
        probability = decode(codes[likely[place]])
        background = 1 - probability.sum(0)
        label = np.where(probability.max(0) > background, probability.argmax(0) + 1, 0)
        yield read_slice(records[likely[place]].path)[0], label
