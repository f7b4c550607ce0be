"""Whether two results are scores of the same cases, classes and targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from utils.evaluation.kind import kind_of_rows

Rows = Sequence[Mapping[str, Any]]


def place_name(place: tuple[str, str | None]) -> str:
    """A case, or a case and a class, for a message."""
    return place[0] if place[1] is None else f"{place[0]}, {place[1]}"


def other_targets(ours: Rows, theirs: Rows, names: tuple[str, str]) -> str | None:
    """How the cases, classes or targets of two results differ, in a line without a remedy; None where they are equal.

    Targets are compared by their voxels (volumes) or class numbers (images); a row without them cannot be compared.
    """
    kind, other_kind = kind_of_rows(ours), kind_of_rows(theirs)
    if kind is not other_kind:
        return f"{names[0]} holds scores of {kind.inputs}, {names[1]} of {other_kind.inputs}"
    first, second = ({(row["case"], row.get("class")): row for row in rows} for rows in (ours, theirs))
    if other := sorted(first.keys() ^ second.keys(), key=str):
        owner = names[0] if other[0] in first else names[1]
        return (
            f"{names[0]} and {names[1]} were not scored on the same cases and classes ({len(other)} are in one only, "
            f"such as {place_name(other[0])}, in {owner})"
        )
    for place, row in first.items():
        targets = row.get(kind.target), second[place].get(kind.target)
        if targets[0] != targets[1] and None not in targets:
            first_has, second_has = map(kind.target_words.format, targets)
            return f"{place_name(place)}: the target of {names[0]} {first_has}, that of {names[1]} {second_has}"
    return None
