"""Folders of images, one folder per class, as HDKD and torchvision keep them."""

import csv
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from datasets.decoding import SUFFIXES, check_readable, decode
from datasets.image_transforms import NO_AUGMENTATION, Augmentation
from datasets.images import ImageRecord, LabeledImages
from datasets.splits import SPLITS, split_patients


def image_folder(
    root: str,
    split: str,
    image_size: int = 224,
    in_channels: Literal[1, 3] = 3,
    normalization: Literal["imagenet", "half", "none"] = "imagenet",
    augment: Augmentation = NO_AUGMENTATION,
    balance: Literal["none", "sampler"] = "none",
    smote: str | None = None,
    smote_mb: int = 4096,
    cache_mb: int = 1024,
    patients: str | None = None,
    val_fraction: float = 0.1,
    split_seed: int = 0,
    seed: int = 0,
) -> LabeledImages:
    """One split of `ROOT/train/CLASS/*.jpg` and `ROOT/test/CLASS/*.jpg`; other arguments: see `LabeledImages`.

    Classes are the folders of train in alphabetical order. Where there is no `ROOT/val`, val is carved from train: of
    the patients of each class (a patient of several classes counts for the one he has most images of), taken in the
    order of a hash of `split_seed` and name, `val_fraction` go to val, at least one if there are two. The test folder
    is never touched: HDKD as published chose its best model on it.

    Args:
        root: Folder with `train`, `test` and perhaps `val`.
        split: `train`, `val` or `test`.
        patients: CSV with the columns `image` (file name, with or without its ending, or the path below ROOT) and
            `patient`. None: every image counts as its own patient, which is right only if it is.
        val_fraction: See above; unused where `ROOT/val` is.
        split_seed: Of the carving; apart from `seed`, so that runs of several seeds share their val patients.

    Raises ValueError for a missing folder, a test or val class that train does not have, files that are no images, and
    a patient in two splits.
    """
    if not 0 < val_fraction < 1:
        raise ValueError(f"val_fraction {val_fraction:g} is no fraction of the training patients: give e.g. 0.1")
    home = Path(root)
    if not (home / "train").is_dir():
        raise ValueError(f"{home / 'train'}: no such folder: give the folder that holds train/CLASS/*.jpg as root")
    class_names = _folders(home / "train")
    if len(class_names) < 2:
        raise ValueError(f"{home / 'train'} has {len(class_names)} folders: give one per class, at least two")
    patient_of = _Patients(Path(patients)) if patients is not None else None
    records = {name: _records(home, name, class_names, patient_of) for name in SPLITS}
    if not (home / "val").is_dir():
        held = _carve(records["train"], val_fraction, split_seed)
        records["val"] = [record for record in records["train"] if record.patient in held]
        records["train"] = [record for record in records["train"] if record.patient not in held]
    if split in records:
        check_readable([home / record.case for record in records[split]])
    return LabeledImages(
        records.get(split, []),
        _read,
        class_names,
        split,
        patients={name: sorted({record.patient for record in records[name]}) for name in SPLITS},
        image_size=image_size,
        in_channels=in_channels,
        normalization=normalization,
        augment=augment,
        balance=balance,
        smote=smote,
        smote_mb=smote_mb,
        cache_mb=cache_mb,
        seed=seed,
        content=_content,
    )


def _read(record: ImageRecord) -> np.ndarray:
    return decode(Path(record.source), record.source)


def _content(record: ImageRecord) -> bytes:
    return Path(record.source).read_bytes()


class _Patients:
    """The patient of every image, from a CSV."""

    def __init__(self, file: Path) -> None:
        self.file = file
        try:
            with file.open(newline="", encoding="utf-8-sig") as lines:
                rows = csv.DictReader(lines)
                self.of = {row["image"]: row["patient"] for row in rows}
        except (OSError, KeyError, UnicodeDecodeError) as error:
            raise ValueError(f"{file}: no list of patients ({error!r}): give CSV with columns image, patient") from None

    def __call__(self, cases: Sequence[str]) -> list[str]:
        """The patients of images, given by their paths below the root."""
        names = [(case, case.rpartition("/")[2], PurePosixPath(case).stem) for case in cases]
        found = [next((self.of[name] for name in forms if self.of.get(name)), "") for forms in names]
        missing = [case for case, patient in zip(cases, found, strict=True) if not patient]
        if missing:
            raise ValueError(f"{self.file}: names no patient of {len(missing)} images, such as {missing[0]}: add them")
        return found


def _folders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _records(home: Path, split: str, class_names: list[str], patient_of: _Patients | None) -> list[ImageRecord]:
    if not (home / split).is_dir():
        return []
    unknown = sorted(set(_folders(home / split)) - set(class_names))
    if unknown:
        raise ValueError(f"{home / split / unknown[0]}: train has no such class: add it there, or remove it here")
    records = []
    for label, name in enumerate(class_names):
        folder = home / split / name
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.name[0] != ".")
        cases = [path.relative_to(home).as_posix() for path in files]
        patients = cases if patient_of is None else patient_of(cases)
        if split == "train" and not files:
            raise ValueError(f"{folder} holds no image ({', '.join(sorted(SUFFIXES))}): fill it, or remove it")
        records += [
            ImageRecord(case, patient, label, str(file))
            for case, patient, file in zip(cases, patients, files, strict=True)
        ]
    return records


def _carve(records: list[ImageRecord], fraction: float, seed: int) -> set[str]:
    """The training patients that go to val."""
    labels: dict[str, Counter[int]] = defaultdict(Counter)
    for record in records:
        labels[record.patient][record.label] += 1
    strata: dict[int, list[str]] = defaultdict(list)
    for patient, counts in labels.items():
        strata[max(counts, key=lambda label: (counts[label], -label))].append(patient)
    shares = (1 - fraction, fraction, 0.0)
    return {patient for members in strata.values() for patient in split_patients(members, shares, seed)["val"]}
