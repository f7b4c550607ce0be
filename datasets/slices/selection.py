"""Which slices training sees: patients whose labels are held back, and how much of the background."""

import hashlib
from collections.abc import Sequence

import numpy as np

from datasets.slices.store import SliceRecord


def unlabeled_patients(patients: Sequence[str], labeled: float) -> frozenset[str]:
    """Patients whose labels are held back; a larger labeled fraction always contains a smaller one, and 0 holds all."""
    ranked = sorted(
        patients, key=lambda patient: hashlib.sha256(f"labeled {patient}".encode(errors="surrogateescape")).digest()
    )
    return frozenset(ranked[max(1, round(labeled * len(patients))) if labeled else 0 :])


def thinned(
    records: list[SliceRecord], foreground: set[int], fraction: float, seed: int, unlabeled: frozenset[str]
) -> list[SliceRecord]:
    """All records with a foreground label and a seeded choice of `fraction` of the others, in the same order.

    Which slices of unlabeled patients have foreground is not known: the same share of all their slices is kept.
    """
    known = [index for index, record in enumerate(records) if record.patient not in unlabeled]
    background = [index for index in known if not foreground.intersection(records[index].labels)]
    dropped_count = len(background) - round(fraction * len(background))
    dropped = set(np.random.default_rng(seed).permutation(background)[:dropped_count].tolist())
    if unlabeled:
        others = sorted(set(range(len(records))) - set(known))
        count = round(len(others) * dropped_count / max(1, len(known)))
        dropped |= set(np.random.default_rng(seed).permutation(others)[:count].tolist())
    return [record for index, record in enumerate(records) if index not in dropped]
