"""Which folds of an nnU-Net teach which case: those that have not learned from its patient, where there are any."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets.files import NIFTI_ENDINGS, ending, stem
from datasets.json_files import read_json

SPLITS_FINAL = "splits_final.json"
PREPROCESSED = "nnUNet_preprocessed"  # the folder of nnU-Net's, and the variable that names it
FIRST_CHANNEL = "_0000"  # behind the name of a case, in the name of its image
ALL = "all"  # nnU-Net's fold that learns from every case


@dataclass(frozen=True)
class Fold:
    """A fold, and the patients that it learned from and was watched on; a patient of both was learned from."""

    name: str
    train: frozenset[str]
    val: frozenset[str]


def find_splits(folder: Path, dataset: str, given: Path | None) -> Path | None:
    """splits_final.json of a model folder: as given, or where nnU-Net keeps it; None where it is not there.

    Raises ValueError for a given one that is not there.
    """
    if given is not None:
        if not given.is_file():
            raise ValueError(f"--splits_final {given}: no such file")
        return given
    named = os.environ.get(PREPROCESSED)
    preprocessed = [Path(named)] if named else []
    preprocessed += [folder.parents[2] / PREPROCESSED] if len(folder.parents) > 2 else []
    places = [folder, folder.parent, *(place / dataset for place in preprocessed)]
    return next((place / SPLITS_FINAL for place in places if (place / SPLITS_FINAL).is_file()), None)


def known_splits(folder: Path, dataset: str, given: Path | None, allow_leak: bool) -> Path | None:
    """What `find_splits` finds. Raises ValueError where that is nothing, unless `allow_leak`."""
    if (file := find_splits(folder, dataset, given)) is None and not allow_leak:
        raise ValueError(
            f"{folder}: no {SPLITS_FINAL} is found for it, so whom its folds have learned from is not known: give "
            f"--splits_final {PREPROCESSED}/{dataset or 'DATASET'}/{SPLITS_FINAL}, or --allow_leak to go on without "
            "knowing of a leak"
        )
    return file


def read_folds(file: Path, names: Sequence[str], patient_of: Mapping[str, str]) -> list[Fold]:
    """The folds of these names. patient_of: the patient of each case; names it lacks are patients of their own.

    A case of imagesTr keeps its channel where a store names it by its file: `a_0000` is the `a` of the file.

    Raises ValueError for a file that is no list of folds, or lacks one of these.
    """
    content = read_json(file)
    if not isinstance(content, list) or not all(isinstance(each, dict) and "train" in each for each in content):
        raise ValueError(f"{file}: is no list of folds with train and val: give nnU-Net's splits_final.json")

    known = {case.removesuffix(FIRST_CHANNEL): patient for case, patient in patient_of.items()} | dict(patient_of)

    def patients(cases: Iterable[object]) -> frozenset[str]:
        written = (Path(str(case)) for case in cases)
        plain = (stem(case) if ending(case) in NIFTI_ENDINGS else str(case) for case in written)
        return frozenset(known.get(case, case) for case in plain)

    folds = []
    for name in names:
        if name == ALL:
            each = content[0]
            folds.append(Fold(ALL, patients([*each["train"], *each.get("val", [])]), frozenset()))
            continue
        if not name.isdigit() or int(name) >= len(content):
            raise ValueError(
                f"{file}: holds folds 0 to {len(content) - 1}, not {name}: give the file it was trained by"
            )
        train, val = (patients(content[int(name)].get(part, [])) for part in ("train", "val"))
        folds.append(Fold(name, train, val - train))
    return folds


def taught_by(patients: Mapping[str, str], folds: Sequence[Fold]) -> dict[str, tuple[int, ...]]:
    """The places among `folds` of those that teach each case: those that have not learned from its patient, or all.

    patients: that of each case.
    """
    unseen = {
        case: tuple(number for number, fold in enumerate(folds) if patient not in fold.train)
        for case, patient in patients.items()
    }
    return {case: numbers or tuple(range(len(folds))) for case, numbers in unseen.items()}


def split_of(folds: Sequence[Fold]) -> dict[str, list[str]]:
    """Whom all folds together have learned from and were watched on."""
    train = frozenset().union(*(fold.train for fold in folds))
    return {"train": sorted(train), "val": sorted(frozenset().union(*(fold.val for fold in folds)) - train)}
