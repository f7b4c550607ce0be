"""Folders of images, one folder per class, as HDKD and torchvision keep them."""

import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from datasets.images.dataset import DEFAULT_OPTIONS, ImageOptions, ImageRecord, LabeledImages
from datasets.images.decoding import SUFFIXES, check_readable, decode, refuse_any, scan_images
from datasets.images.duplicates import same_pictures
from datasets.images.patients import read_patients
from datasets.scan import hidden
from datasets.splits import SPLITS, split_patients


def image_folder(
    root: str,
    split: str,
    options: ImageOptions = DEFAULT_OPTIONS,
    patients: str | None = None,
    val_fraction: float = 0.1,
    split_seed: int = 0,
) -> LabeledImages:
    """One split of `ROOT/train/CLASS/*.jpg` and `ROOT/test/CLASS/*.jpg`; for `options` see `ImageOptions`.

    Classes are the folders of train in alphabetical order; an image may lie at any depth below its class. Without a
    `ROOT/val`, val is carved from train: `val_fraction` of the patients of each class go to val, at least one if there
    are two, in the order of a hash of `split_seed` and name; a patient of several classes counts for the one with most
    of the patient's images. The test folder is never touched: HDKD as published chose its best model on it.

    Args:
        root: Folder with `train`, `test` and perhaps `val`.
        split: `train`, `val` or `test`.
        patients: CSV with the columns `image` and `patient`, see `datasets.images.patients`. None: every image
            counts as its own patient, which is right only if it is; copies of one picture count as one.
        val_fraction: See above; unused where `ROOT/val` is.
        split_seed: Seed of the carving; apart from `seed`, so that runs of several seeds share their val patients.

    Raises ValueError for a missing or closed folder, a dead link, a test or val class that train does not have, files
    that are not images, and a patient or a picture in two splits.
    """
    if not 0 < val_fraction < 1:
        raise ValueError(f"val_fraction {val_fraction:g}: give a fraction of the training patients, e.g. 0.1")
    home = Path(root)
    if not (home / "train").is_dir():
        raise ValueError(f"{home / 'train'}: no such folder: give the folder that holds train/CLASS/*.jpg as root")
    class_names = _class_names(home / "train")
    files, notes = _find(home, class_names)
    cases = [file.relative_to(home).as_posix() for file in files]
    copies = [[cases[place] for place in places] for places in same_pictures(files)]
    if patients is None:
        patient_of = {case: case for case in cases}
        patient_of |= {case: group[0] for group in copies for case in group}  # val gets all copies of a picture or none
    else:
        named, more = read_patients(Path(patients), cases)
        patient_of, notes = dict(zip(cases, named, strict=True)), notes + more
    records: dict[str, list[ImageRecord]] = {name: [] for name in SPLITS}
    for file, case in zip(files, cases, strict=True):
        name, label = case.split("/")[:2]
        records[name].append(ImageRecord(case, patient_of[case], class_names.index(label), str(file)))
    if not (home / "val").is_dir():
        held = _carve(records["train"], val_fraction, split_seed)
        if not held:
            raise ValueError(f"{home / 'train'}: no class has two patients to carve val from: add images, or make val")
        records["val"] = [record for record in records["train"] if record.patient in held]
        records["train"] = [record for record in records["train"] if record.patient not in held]
    notes += _check_copies(home, copies, records)
    for name in SPLITS:
        lacking = sorted(set(range(len(class_names))) - {record.label for record in records[name]})
        if records[name] and lacking:
            notes.append(f"{name} holds no image of {', '.join(class_names[label] for label in lacking)}")
    if not records["test"]:
        notes.append(f"{home / 'test'}: holds no image, so what is trained cannot be tested")
    if split in records:
        check_readable([home / record.case for record in records[split]])
    return LabeledImages(
        records.get(split, []),
        _read,
        class_names,
        split,
        patients={name: sorted({record.patient for record in records[name]}) for name in SPLITS},
        options=options,
        content=_content,
        notes=notes,
    )


def _read(record: ImageRecord) -> np.ndarray:
    return decode(Path(record.source), record.source)


def _content(record: ImageRecord) -> bytes:
    return Path(record.source).read_bytes()


def _folders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not hidden(path.name))


def _class_names(folder: Path) -> list[str]:
    """The folders of train. Raises ValueError for fewer than two, and for names that differ in case only."""
    names = _folders(folder)
    if len(names) < 2:
        raise ValueError(f"{folder} has {len(names)} folders: give one per class, at least two")
    seen: dict[str, str] = {}
    for name in names:
        if name != os.fsencode(name).decode("utf-8", "replace"):
            raise ValueError(f"{folder / name}: the name of a class must be UTF-8: rename the folder")
        if (other := seen.setdefault(_plain(name), name)) != name:
            raise ValueError(f"{folder / name}: differs from {other!r} in case or spaces only: make them one class")
    return names


def _plain(name: str) -> str:
    return " ".join(name.casefold().split())


def _find(home: Path, class_names: Sequence[str]) -> tuple[list[Path], list[str]]:
    """The images of all splits, train first, by class and name; and a line for each thing that was passed over.

    Raises ValueError for folders and files that cannot be reached, which would silently be missing.
    """
    files: list[Path] = []
    notes: list[str] = []
    bad: list[str] = []
    if others := sorted(set(_folders(home)) - set(SPLITS)):
        notes.append(f"{home}: passed over: the folders {', '.join(others)}, which are none of {', '.join(SPLITS)}")
    for split in filter(lambda name: (home / name).is_dir(), SPLITS):
        folder = home / split
        for name in sorted(set(_folders(folder)) - set(class_names)):
            same = [known for known in class_names if _plain(known) == _plain(name)]
            remedy = f"rename it to {same[0]}" if same else "add it there, or remove it here"
            raise ValueError(f"{folder / name}: train has no such class: {remedy}")
        found = scan_images(folder)
        found.keep(lambda file, folder=folder: file.parent != folder, "place, in no folder of a class")
        bad, notes, files = bad + found.bad, notes + found.notes, files + found.files
    refuse_any(bad)
    filled = {file.relative_to(home).parts[:2] for file in files}
    if empty := [home / "train" / name for name in class_names if ("train", name) not in filled]:
        raise ValueError(f"{empty[0]} holds no image ({', '.join(sorted(SUFFIXES))}): fill it, or remove it")
    return files, notes


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


def _check_copies(
    home: Path, copies: Sequence[Sequence[str]], records: Mapping[str, Sequence[ImageRecord]]
) -> list[str]:
    """A line about pictures that a split holds more than once. Raises ValueError for one that is in two splits."""
    place = {record.case: (name, record) for name in SPLITS for record in records[name]}
    apart = [group for group in copies if len({place[case][0] for case in group}) > 1]
    if apart:
        first = apart[0][0]
        other = next(case for case in apart[0] if place[case][0] != place[first][0])
        remedy = "remove them from one"
        if first.startswith("train/") and other.startswith("train/"):  # val was carved between patients
            remedy = "give both one patient, or remove one"
        raise ValueError(
            f"{home}: {_pictures(apart)} in two splits, such as {first} ({place[first][0]}) and {other} "
            f"({place[other][0]}): {remedy}"
        )
    notes = []
    for name in SPLITS:
        if within := [group for group in copies if place[group[0]][0] == name]:
            counts = {
                what: sum(len({getattr(place[case][1], key) for case in group}) > 1 for group in within)
                for key, what in (("label", "classes"), ("patient", "patients"))
            }
            more = "".join(f"; {count} of them in two {what}" for what, count in counts.items() if count)
            first, other = within[0][:2]
            notes.append(f"{home}: {_pictures(within)} more than once in {name}, such as {first} and {other}{more}")
    return notes


def _pictures(groups: Sequence[Sequence[str]]) -> str:
    return f"{len(groups)} pictures are" if len(groups) > 1 else "1 picture is"
