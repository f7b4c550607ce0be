"""Splits by patient: seeded, extendable, and recognizable by a hash that travels with what was trained on them."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets.files import NIFTI_ENDINGS, ending, stem
from datasets.json_files import read_json

DEFAULT_RATIOS = (0.7, 0.1, 0.2)  # of patients
SPLITS = ("train", "val", "test")


def split_patients(
    patients: Iterable[str], ratios: Sequence[float], seed: int, existing: dict[str, list[str]] | None = None
) -> dict[str, list[str]]:
    """Deal patients into train, val and test; no split of non-zero ratio is empty when there are patients enough.

    Patients are taken in the order of a hash of seed and name, so the result depends on nothing else. Those of an
    `existing` split stay where they are. Raises ValueError for ratios that do not add up to 1.
    """
    if len(ratios) != 3 or min(ratios) < 0 or not abs(sum(ratios) - 1) <= 1e-6:
        raise ValueError(
            f"--split {' '.join(f'{ratio:g}' for ratio in ratios)}: give train, val, test that add up to 1"
        )
    split = {name: list((existing or {}).get(name, [])) for name in SPLITS}
    placed = {patient for names in split.values() for patient in names}
    fresh = sorted(set(patients) - placed, key=lambda patient: _draw(f"{seed}:{patient}"))
    wanted = _counts(len(placed) + len(fresh), ratios)
    for patient in fresh:
        name = max(SPLITS, key=lambda name: wanted[name] - len(split[name]))
        split[name].append(patient)
    return {name: sorted(split[name]) for name in SPLITS}


def _draw(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="surrogateescape")).digest()  # names that are not UTF-8 as well


def _counts(total: int, ratios: Sequence[float]) -> dict[str, int]:
    """Patients per split by largest remainder, then at least one in each split of non-zero ratio."""
    exact = [ratio * total for ratio in ratios]
    counts = [int(count + 1e-9) for count in exact]
    for index in sorted(range(3), key=lambda index: counts[index] - exact[index])[: total - sum(counts)]:
        counts[index] += 1
    wanted = [index for index in range(3) if ratios[index] > 0]
    while total >= len(wanted) and (empty := [index for index in wanted if not counts[index]]):
        counts[max(range(3), key=lambda index: counts[index])] -= 1
        counts[empty[0]] += 1
    return dict(zip(SPLITS, counts, strict=True))


def read_split(path: Path) -> dict[str, list[str]]:
    """Read a split file: JSON with lists train, val, test of patients. Raises ValueError for anything else."""
    return _split_of(path, read_json(path), {})


def split_as_asked(
    path: Path, patient_of: Mapping[str, str], fold: int | None
) -> tuple[dict[str, list[str]], str | None]:
    """Read the file of --split_file: a split file, or nnU-Net's splits_final.json, a list of folds with train and val.

    patient_of: the patient of every case; a file may name the cases instead, with or without the ending of a volume.
    fold: which one of several, the first by default. Returns the split, and a line about the fold if there are folds.
    Raises ValueError for a file that is neither, and for a patient in two splits.
    """
    content = read_json(path)
    if not isinstance(content, list):
        if fold is not None:
            raise ValueError(f"--fold {fold}: {path} holds one split, not a list of folds: leave out --fold")
        return _split_of(path, content, patient_of), None
    number, last = fold or 0, len(content) - 1
    if not 0 <= number <= last:
        raise ValueError(f"--fold {number}: {path} holds {len(content)} folds: give 0 to {last}")
    split = _split_of(path, content[number], patient_of)
    absent = [name for name in SPLITS if not split[name]]
    rest = f"; it leaves {' and '.join(absent)} empty" if absent else ""
    return split, f"{path}: fold {number} of 0 to {last} is used, choose another one with --fold{rest}"


def _split_of(path: Path, content: Any, patient_of: Mapping[str, str]) -> dict[str, list[str]]:
    wanted = "give JSON with lists train, val, test"
    if not isinstance(content, dict) or not all(isinstance(content.get(name, []), list) for name in SPLITS):
        raise ValueError(f"{path}: not a split file: {wanted}")
    listed = {name: [str(entry) for entry in content.get(name, [])] for name in SPLITS}
    split = {name: sorted({_patient(entry, patient_of) for entry in listed[name]}) for name in SPLITS}
    if not any(split.values()):
        raise ValueError(f"{path}: names no patient: {wanted}")
    for lists in (listed, split):  # the same name twice, then two cases of a patient in different splits
        counts = Counter(entry for name in SPLITS for entry in lists[name])
        if twice := sorted(entry for entry, count in counts.items() if count > 1):
            raise ValueError(f"{path}: {', '.join(twice[:5])} named more than once: a patient belongs to one split")
    return split


def _patient(entry: str, patient_of: Mapping[str, str]) -> str:
    """The patient that an entry of a split file means, be it named itself, as a case, or as the file of a case."""
    case = stem(Path(entry)) if ending(Path(entry)) in NIFTI_ENDINGS else entry
    return patient_of.get(entry, patient_of.get(case, entry))


def split_sha256(split: dict[str, list[str]]) -> str:
    """Hash of who is in which split: the same for the same split, however the file is written."""
    canonical = json.dumps({name: sorted(split[name]) for name in SPLITS}, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def check_patients(patients: Mapping[str, Sequence[str]]) -> None:
    """Raises ValueError for a patient in two splits. patients: those of each split, by its name."""
    split_of: dict[str, str] = {}
    for name in SPLITS:
        for patient in patients[name]:
            if split_of.setdefault(patient, name) != name:
                raise ValueError(
                    f"patient {patient} is in {split_of[patient]} and {name}: a patient belongs to one split"
                )
