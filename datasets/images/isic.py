"""ISIC 2024 (SLICE-3D): one crop per skin lesion, 401,059 of them, 393 malignant, of 1,042 patients."""

import csv
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from datasets.files import remedy_of, write_text
from datasets.images.dataset import DEFAULT_OPTIONS, ImageOptions, ImageRecord, LabeledImages
from datasets.images.decoding import decode
from datasets.images.patients import BLANK
from datasets.images.raw_images import IMAGES, open_store, read_stored
from datasets.splits import DEFAULT_RATIOS, SPLITS, split_patients

METADATA = "train-metadata.csv"
CLASS_NAMES = ("benign", "malignant")
COLUMNS = ("isic_id", "patient_id", "target", "split")


@dataclass(frozen=True)
class Lesion:
    """One lesion, as a row of the metadata or, with its split, of an index."""

    isic_id: str
    patient: str
    target: int
    split: str = ""


def isic(
    root: str,
    split: str,
    options: ImageOptions = DEFAULT_OPTIONS,
    index: str | None = None,
    ratios: tuple[float, float, float] | None = None,
    fold: int | None = None,
    folds: int = 5,
    negatives: dict[str, int] | None = None,
    split_seed: int = 0,
) -> LabeledImages:
    """One split of ISIC 2024 as classes benign and malignant; for `options` see `ImageOptions`.

    `deal` decides which lesion is in which split, unless `index`, written by scripts/skin/SampleISIC.py, gives it.

    Args:
        root: Folder with `train-metadata.csv` (not needed with `index`) and the images, either `train-image.hdf5`
            (each key an isic_id, its value the bytes of a JPEG) or `train-image/image/ISIC_ID.jpg`.
        split: `train`, `val` or `test`.
        index: CSV with the columns isic_id, patient_id, target, split; instead of the five arguments that follow.
        ratios: Shares of the patients in train, val and test, see `deal`; None: 0.7, 0.1, 0.2.
        fold: See `deal`.
        folds: See `deal`.
        negatives: See `deal`; as published: {train: 40000, val: 10000}.
        split_seed: Seed of the split and of the choice of negatives; apart from `seed`, so that runs of several seeds
            share them.

    Raises ValueError for missing files, columns and images, and for a patient in two splits.
    """
    home = Path(root)
    if index is None:
        lesions = deal(read_lesions(home), ratios or DEFAULT_RATIOS, fold, folds, negatives or {}, split_seed)
    elif ratios is not None or fold is not None or negatives is not None:
        raise ValueError(f"index {index} already says who is where: set ratios, fold and negatives to null")
    else:
        lesions = read_index(Path(index))
    images = LesionImages(home)
    records = [
        ImageRecord(lesion.isic_id, lesion.patient, lesion.target) for lesion in lesions if lesion.split == split
    ]
    images.check(records)
    return LabeledImages(
        records,
        images,
        CLASS_NAMES,
        split,
        patients={name: sorted({lesion.patient for lesion in lesions if lesion.split == name}) for name in SPLITS},
        options=options,
        content=images.content,
    )


def read_lesions(root: Path) -> list[Lesion]:
    """All rows of `train-metadata.csv`, in its order. Raises ValueError for missing columns and targets but 0 and 1."""
    rows = _read_columns(root / METADATA, COLUMNS[:3], "download it again, as ISIC 2024 publishes it")
    return [Lesion(isic_id, patient, target) for isic_id, patient, target in rows]


def read_index(file: Path) -> list[Lesion]:
    """An index as `write_index` writes it.

    Raises ValueError for anything else, a lesion named twice, and a patient in two splits.
    """
    lesions = [Lesion(*row) for row in _read_columns(file, COLUMNS, "make it again with scripts/skin/SampleISIC.py")]
    split_of: dict[str, str] = {}
    for lesion in lesions:
        if lesion.split not in SPLITS:
            raise ValueError(f"{file}: {lesion.isic_id} is in split {lesion.split!r}: it must be {', '.join(SPLITS)}")
        if split_of.setdefault(lesion.patient, lesion.split) != lesion.split:
            raise ValueError(
                f"{file}: patient {lesion.patient} is in {split_of[lesion.patient]} and {lesion.split}: "
                "a patient belongs to one split, sample again"
            )
    return lesions


def write_index(file: Path, lesions: Sequence[Lesion]) -> None:
    """CSV with the columns isic_id, patient_id, target, split; appears whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows((lesion.isic_id, lesion.patient, lesion.target, lesion.split) for lesion in lesions)
    write_text(file, text.getvalue())


def is_index(file: Path) -> bool:
    """Whether a file has the columns of an index as `write_index` writes it, and no others."""
    with file.open(encoding="utf-8", errors="replace") as lines:
        return lines.readline().strip() == ",".join(COLUMNS)


def _read_columns(file: Path, columns: Sequence[str], remedy: str) -> list[tuple[Any, ...]]:
    """The named columns of every row; target as 0 or 1. remedy: where such a file comes from."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.reader(lines)
            header = [name.strip() for name in next(reader, [])]
            missing = [name for name in columns if name not in header]
            if missing:
                raise ValueError(f"{file}: has no column {', '.join(missing)}: {remedy}")
            places = [header.index(name) for name in columns]
            rows = [[row[place].strip() for place in places] for row in reader if row]
    except OSError as error:
        raise ValueError(f"{file}: cannot be read ({error.strerror}): {remedy_of(error)}") from None
    except (IndexError, csv.Error, UnicodeDecodeError) as error:
        reason = f"line {reader.line_num} is short" if isinstance(error, IndexError) else error
        raise ValueError(f"{file}: cannot be read ({reason}): {remedy}") from None
    seen: set[str] = set()
    for number, (isic_id, _, target, *_) in enumerate(rows):
        if target not in ("0", "1", "0.0", "1.0"):
            raise ValueError(f"{file}: target of {isic_id} is {target!r}: it must be 0 or 1")
        if isic_id in seen:
            raise ValueError(f"{file}: {isic_id} is named twice: remove one")
        seen.add(isic_id)
        rows[number][2] = int(float(target))
    if blank := [row[0] for row in rows if row[1].lower() in BLANK]:
        raise ValueError(f"{file}: the patient of {len(blank)} lesions is blank, such as of {blank[0]}: {remedy}")
    return [tuple(row) for row in rows]


def deal(
    lesions: Sequence[Lesion],
    ratios: Sequence[float],
    fold: int | None,
    folds: int,
    negatives: Mapping[str, int],
    seed: int,
) -> list[Lesion]:
    """Give every lesion a split, and leave out negatives that are not kept; in the order of `lesions`.

    Patients with a malignant lesion and those without are dealt apart, in the order of a hash of seed and name, so that
    both kinds are in every split by `ratios`: shares of patients, which the shares of images follow only roughly.

    Args:
        lesions: All rows of the metadata.
        ratios: Train, val, test; they add up to 1.
        fold: For cross-validation, 0 to folds - 1: the patients that `ratios` give to train and val are dealt once more
            into `folds` equal parts; part `fold` is val, the others train. Test stays as it is.
        folds: Number of parts.
        negatives: How many benign lesions to keep in train and in val, chosen by the hash of seed and isic_id; a split
            not named, or with fewer, keeps all. Test is never thinned.
        seed: Seed of both hashes.

    Raises ValueError for ratios, folds or negatives out of range.
    """
    if len(ratios) != 3 or min(ratios) < 0 or abs(sum(ratios) - 1) > 1e-6:
        raise ValueError(f"ratios {list(ratios)}: give train, val and test shares that add up to 1")
    if unknown := sorted(set(negatives) - {"train", "val"}):
        raise ValueError(f"negatives of {unknown[0]}: only train and val can be thinned, test stays whole")
    if least := [name for name, count in negatives.items() if count < 1]:
        raise ValueError(f"negatives of {least[0]} {negatives[least[0]]}: keep at least 1")
    if fold is not None and not (folds >= 2 and 0 <= fold < folds):
        raise ValueError(f"fold {fold} of {folds}: give folds of at least 2 and a fold from 0 to folds - 1")
    ill = {lesion.patient for lesion in lesions if lesion.target}
    split_of = {}
    for stratum in (sorted(ill), sorted({lesion.patient for lesion in lesions} - ill)):
        split = split_patients(stratum, ratios, seed)
        if fold is not None:
            kept = sorted([*split["train"], *split["val"]], key=lambda patient: _order(seed, patient))
            split["val"] = kept[fold::folds]
            split["train"] = sorted(set(kept) - set(split["val"]))
        split_of |= {patient: name for name in SPLITS for patient in split[name]}
    dealt = [Lesion(lesion.isic_id, lesion.patient, lesion.target, split_of[lesion.patient]) for lesion in lesions]
    dropped: set[str] = set()
    for name, count in negatives.items():
        benign = [lesion.isic_id for lesion in dealt if lesion.split == name and not lesion.target]
        dropped.update(sorted(benign, key=lambda isic_id: _order(seed, isic_id))[count:])
    return [lesion for lesion in dealt if lesion.isic_id not in dropped]


def _order(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}:{name}".encode()).digest()


class LesionImages:
    """Reads a lesion's image from `train-image.hdf5` or a folder of JPEGs, whichever is in `root`.

    The HDF5 file is opened by each process when it reads first: an open one does not survive a fork.
    """

    def __init__(self, root: Path) -> None:
        self.file, self.folder = root / IMAGES, root / "train-image" / "image"
        self._opened: Any = None
        self._process = 0
        if not self.file.is_file() and not self.folder.is_dir():
            raise ValueError(f"{root}: has neither {IMAGES} nor train-image/image: unpack the images there")

    def __call__(self, record: ImageRecord) -> np.ndarray:
        place = f"{self.file}: {record.case}" if self.file.is_file() else str(self.folder / f"{record.case}.jpg")
        return decode(self.content(record), place)

    def content(self, record: ImageRecord) -> bytes:
        """The bytes of a lesion's JPEG."""
        if self.file.is_file():
            return read_stored(self._hdf5(), self.file, record.case)
        return (self.folder / f"{record.case}.jpg").read_bytes()

    def check(self, records: Sequence[ImageRecord]) -> None:
        """Raises ValueError when images are missing."""
        if self.file.is_file():
            there: Any = set(self._hdf5())
            missing = [record.case for record in records if record.case not in there]
        else:
            missing = [record.case for record in records if not (self.folder / f"{record.case}.jpg").is_file()]
        if missing:
            place = self.file if self.file.is_file() else self.folder
            raise ValueError(f"{place}: {len(missing)} of {len(records)} images are missing, such as {missing[0]}")

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": None, "_process": 0}

    def _hdf5(self) -> Any:
        if self._process != os.getpid():
            self._opened, self._process = open_store(self.file), os.getpid()
        return self._opened
