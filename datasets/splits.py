"""Splits by patient: seeded, extendable, and recognizable by a hash that travels with what was trained on them."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

SPLITS = ("train", "val", "test")


def split_patients(
    patients: Iterable[str], ratios: Sequence[float], seed: int, existing: dict[str, list[str]] | None = None
) -> dict[str, list[str]]:
    """Deal patients into train, val and test; no split of non-zero ratio is empty when there are patients enough.

    Patients are taken in the order of a hash of seed and name, so the result depends on nothing else. Those of an
    `existing` split stay where they are. Raises ValueError for ratios that are no split.
    """
    if len(ratios) != 3 or min(ratios) < 0 or abs(sum(ratios) - 1) > 1e-6:
        raise ValueError(
            f"--split {' '.join(f'{ratio:g}' for ratio in ratios)}: give train, val, test that add up to 1"
        )
    split = {name: list((existing or {}).get(name, [])) for name in SPLITS}
    placed = {patient for names in split.values() for patient in names}
    fresh = sorted(set(patients) - placed, key=lambda patient: hashlib.sha256(f"{seed}:{patient}".encode()).digest())
    wanted = _counts(len(placed) + len(fresh), ratios)
    for patient in fresh:
        name = max(SPLITS, key=lambda name: wanted[name] - len(split[name]))
        split[name].append(patient)
    return {name: sorted(split[name]) for name in SPLITS}


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
    try:
        content = json.loads(path.read_text())
        split = {name: sorted(str(patient) for patient in content.get(name, [])) for name in SPLITS}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{path}: not a split file ({error}): give JSON with lists train, val, test") from None
    patients = [patient for name in SPLITS for patient in split[name]]
    if not patients:
        raise ValueError(f"{path}: names no patient: give JSON with lists train, val, test")
    twice = sorted({patient for patient in patients if patients.count(patient) > 1})
    if twice:
        raise ValueError(f"{path}: {', '.join(twice[:5])} named more than once: a patient belongs to one split")
    return split


def split_sha256(split: dict[str, list[str]]) -> str:
    """Hash of who is in which split: the same for the same split, however the file is written."""
    canonical = json.dumps({name: sorted(split[name]) for name in SPLITS}, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
