"""What the channels of probabilities mean: background and a class each, or regions that lie within one another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datasets.json_files import read_json
from datasets.volumes.layouts.datalist import read_datalist
from datasets.volumes.scans import RECORD

IGNORE = "ignore"  # nnU-Net's label of voxels that do not count: no network answers it


@dataclass(frozen=True)
class Meaning:
    """Foreground classes, and the channels that they are made of.

    Args:
        names: In the order of their label values.
        values: The label value of each.
        own: The channel of each: of a region, for nnU-Nets that were trained by regions.
        inside: The channels of the regions directly within that of each class, whose probabilities are taken off.
        count: How many channels there are.
    """

    names: tuple[str, ...]
    values: tuple[int, ...]
    own: tuple[int, ...]
    inside: tuple[tuple[int, ...], ...]
    count: int

    @property
    def by_regions(self) -> bool:
        """Whether channels are of regions, without one of background."""
        return any(self.inside)

    def classes(
        self, places: Sequence[int], read: Callable[[Sequence[int]], Iterable[np.ndarray]]
    ) -> Iterator[np.ndarray]:
        """The probabilities of the classes at these places, float32, one after another.

        Of regions the difference is taken, which is at least 0; where what is left sums up to more than 1, it is scaled
        to 1. read: yields the channels of these rising numbers.
        """
        if not self.by_regions:
            yield from (np.asarray(each, np.float32) for each in read([self.own[place] for place in places]))
            return
        wanted = sorted({number for place in places for number in (self.own[place], *self.inside[place])})
        held = {number: np.asarray(each, np.float32) for number, each in zip(wanted, read(wanted), strict=True)}
        parts = [held[self.own[place]] - sum(held[number] for number in self.inside[place]) for place in places]
        parts = [np.maximum(part, 0) for part in parts]
        total = np.maximum(sum(parts), 1)
        yield from (part / total for part in parts)


def plain(named: Mapping[int, str]) -> Meaning:
    """Of classes of these label values, in their order behind background."""
    values = tuple(sorted(named))
    own = tuple(range(1, len(values) + 1))
    return Meaning(tuple(named[value] for value in values), values, own, ((),) * len(values), len(values) + 1)


def meaning_of(folder: Path) -> Meaning:
    """By the dataset.json or the predictions.json of a folder.

    Raises ValueError where neither says it, and for regions that do not part the pixels into classes.
    """
    if (file := folder / "dataset.json").is_file():
        named, labels = read_datalist(file).labels, read_json(file)["labels"]
        if any(isinstance(each, list) and len(each) > 1 for each in labels.values()):
            return _of_regions(file, labels)
        return plain({value: name for value, name in named.items() if name != IGNORE})
    if (file := folder / RECORD).is_file():
        for case in read_json(file).get("cases", {}).values():
            if isinstance(case, dict) and case.get("classes"):
                return plain({int(value): name for value, name in case["classes"].items()})
    raise ValueError(f"{folder}: has no dataset.json that names its classes: give --classes NAME [NAME ...]")


def _of_regions(file: Path, labels: Mapping[str, Any]) -> Meaning:
    """Regions, in the order of dataset.json, have a channel each and none of background.

    A region without those within it must be a single label value, whose class goes by the region's name.
    """
    lists = {name: each if isinstance(each, list) else [each] for name, each in labels.items() if name != IGNORE}
    regions = {name: frozenset(map(int, each)) for name, each in lists.items() if {*map(int, each)} != {0}}
    places, found = {name: number for number, name in enumerate(regions)}, []
    for name, region in regions.items():
        for other, theirs in regions.items():
            if other != name and (theirs == region or (theirs & region and not (theirs < region or region < theirs))):
                raise ValueError(f"{file}: its regions {name} and {other} overlap and neither lies within the other")
        within = {other: theirs for other, theirs in regions.items() if theirs < region}
        inside = [other for other, theirs in within.items() if not any(theirs < each for each in within.values())]
        left = region.difference(*within.values())
        if len(left) > 1 or 0 in region:
            raise ValueError(f"{file}: of its region {name} the values {sorted(left)} are in no smaller one: name each")
        found += [(value, name, places[name], tuple(places[other] for other in inside)) for value in left]
    values, names, own, inside = zip(*sorted(found), strict=True)
    return Meaning(names, values, own, inside, len(regions))
