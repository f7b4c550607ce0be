"""A student and a teacher that look at other numbers of neighboring slices: what data each of them is given."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from datasets import DATASETS

Section = Mapping[str, Any]


def seen_by(data: Section, preprocessing: Mapping[str, Any]) -> dict[str, Any]:
    """A data section with the neighbors that a network was trained with; as it is where its dataset has none."""
    theirs = {"neighbors": preprocessing.get("neighbors", 0), "neighbor_mm": preprocessing.get("neighbor_mm")}
    accepted = inspect.signature(DATASETS[data["name"]]).parameters
    return {**data, **theirs} if "neighbors" in accepted else dict(data)


def seen_by_both(data: Section, preprocessing: Mapping[str, Any]) -> dict[str, Any]:
    """A student's data section, with a teacher's neighbors where it has more: each takes the middle channels."""
    theirs, ours = preprocessing.get("neighbors", 0), data.get("neighbors", 0)
    if theirs <= ours:
        return dict(data)
    wide = seen_by(data, preprocessing)
    return wide | {"neighbor_mm": data.get("neighbor_mm")} if ours else wide
