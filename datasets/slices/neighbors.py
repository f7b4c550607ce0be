"""The slices below and above a slice as channels of its image: which they are, in a store and in a volume."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from datasets.slices.resampling import stored_millimeters
from datasets.slices.store import SliceRecord

if TYPE_CHECKING:
    from torch import Tensor

MOST_NEIGHBORS, FARTHEST_MM = 2, 20.0
Slice = TypeVar("Slice")


def check_neighbors(neighbors: int, neighbor_mm: float | None) -> None:
    """Raises ValueError for a number of neighbors on each side, or a distance between them, that cannot be meant."""
    if type(neighbors) is not int or not 0 <= neighbors <= MOST_NEIGHBORS:
        raise ValueError(f"neighbors {neighbors!r}: give 0, 1 or {MOST_NEIGHBORS}, the slices on each side")
    if neighbor_mm is not None and not 0 < neighbor_mm <= FARTHEST_MM:
        raise ValueError(f"neighbor_mm {neighbor_mm:g}: give mm above 0, at most {FARTHEST_MM:g}, or null")


def channels_of(neighbors: int) -> int:
    """How many channels an image has: the slice, and so many neighbors on each of its sides."""
    return 1 + 2 * neighbors


def offsets_of(neighbors: int, neighbor_mm: float | None, slice_mm: float) -> list[int]:
    """How many slices above each channel's slice lies, from the lowest to the highest; the middle is 0.

    neighbor_mm: None for the very next slices; else the distance of the neighbors, of which the nearest slices are
    taken: where slices are thick that is the slice itself. A distance halfway between two is rounded to the nearer.
    slice_mm: from one slice to the next.
    """
    step = 1.0 if neighbor_mm is None else neighbor_mm / slice_mm
    upper = [math.ceil(number * step - 0.5 - 1e-6) for number in range(1, neighbors + 1)]
    return [*(-offset for offset in reversed(upper)), 0, *upper]


def neighborhoods(slices: Iterable[Slice], count: int, offsets: Sequence[int]) -> Iterator[list[Slice]]:
    """Each of `count` slices as the list of its channels, see `offsets_of`: those beyond the ends are the end's slice.

    Every slice is taken once, and no more are held than lie between the lowest and the highest channel.
    """
    source, window, lowest = iter(slices), deque(), 0
    for place in range(count):
        wanted = [min(max(place + offset, 0), count - 1) for offset in offsets]
        while lowest + len(window) <= wanted[-1]:
            window.append(next(source))
        while lowest < wanted[0]:
            window.popleft()
            lowest += 1
        yield [window[each - lowest] for each in wanted]


def middle(image: Tensor, channels: int | None) -> Tensor:
    """The middle `channels` of an image (..., C, H, W): those of a network with fewer neighbors. None: all."""
    if channels is None or channels == image.shape[-3]:
        return image
    first = (image.shape[-3] - channels) // 2
    return image[..., first : first + channels, :, :]


def stored_neighbors(
    records: Sequence[SliceRecord], samples: Sequence[SliceRecord], neighbors: int, neighbor_mm: float | None
) -> tuple[Sequence[SliceRecord], np.ndarray]:
    """The stored slices that `samples` need, each once, and the places of each sample's channels among them.

    Args:
        records: All of a split, those of a case one after the other, from the lowest slice to the highest.
        samples: Some of them, in their order.

    Returns records, in their order, and int64 (samples, channels). Raises ValueError where the mm between the slices
    of a case are not known and `neighbor_mm` asks for them.
    """
    if not neighbors:
        return samples, np.arange(len(samples))[:, None]
    numbers = {record.file: number for number, record in enumerate(records)}
    places = np.array([numbers[record.file] for record in samples])
    cases = np.array([record.case for record in records])
    first = np.concatenate(([0], np.flatnonzero(cases[1:] != cases[:-1]) + 1))
    which = np.searchsorted(first, places, side="right") - 1
    offsets = np.zeros((len(first), channels_of(neighbors)), np.int64)
    for number in np.unique(which).tolist():
        slice_mm = 1.0 if neighbor_mm is None else slice_mm_of(records[first[number]])
        offsets[number] = offsets_of(neighbors, neighbor_mm, slice_mm)
    last = np.append(first[1:], len(records)) - 1
    rows = np.clip(places[:, None] + offsets[which], first[which, None], last[which, None])
    needed, rows = np.unique(rows, return_inverse=True)
    return [records[number] for number in needed.tolist()], rows.reshape(len(samples), -1)


def slice_mm_of(record: SliceRecord) -> float:
    """The mm between the stored slices of a case. Raises ValueError where its geometry.json does not say them."""
    path = Path(record.root) / record.case / "geometry.json"
    try:
        slice_mm = stored_millimeters(json.loads(path.read_text()))[0]
        if 0 < slice_mm < math.inf:
            return slice_mm
        why = f"{slice_mm} mm"
    except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        why = type(error).__name__
    raise ValueError(
        f"{path}: does not say how far slices are apart ({why}): slice {record.case} again with "
        "scripts/SliceMaker.py, or set neighbor_mm to null"
    )
