"""Recognize the weights of a published network, and give them the names they have here."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from . import NETWORKS
from .published_names import LAYOUTS

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Converted:
    """A published network with our names.

    network: its section in a recipe. weights: load strictly. unused: published tensors that nothing reads.
    prefix: what stood before every name in the file.
    """

    network: dict[str, Any]
    weights: dict[str, Tensor]
    unused: list[str]
    source: str
    prefix: str


def convert(weights: Weights, name: str, prefix: str = "") -> Converted:
    """The published network `name` from its state dict.

    Raises ValueError naming the first tensor that is missing, left over or of another shape.
    """
    if name not in LAYOUTS:
        raise ValueError(f"{name} has no published layout; there are {', '.join(LAYOUTS)}")
    layout = LAYOUTS[name]
    theirs = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
    ours, unused = {}, []
    target, parts = layout.joined
    if parts and all(part in theirs for part in parts):
        ours[target] = torch.cat([theirs.pop(part) for part in parts], dim=1)
    origin = {target: " and ".join(parts)}
    for key, value in theirs.items():
        renamed = layout.renamed(key)
        if renamed is None:
            unused.append(key)
        elif renamed in ours:
            raise ValueError(f"{key} and {origin[renamed]} are the same tensor of {name}")
        else:
            ours[renamed], origin[renamed] = value, key
    section = _section(name, ours)
    expected = _shapes(name, tuple(section.items()))
    for key in expected:
        if key.endswith("num_batches_tracked"):
            ours.setdefault(key, torch.zeros((), dtype=torch.long))  # files older than torch 0.4.1 have none
    if layout.stem in ours and ours[layout.stem].shape[1] == 3:
        ours[layout.stem] = ours[layout.stem].double().sum(dim=1, keepdim=True)
    if missing := [key for key in expected if key not in ours]:
        raise ValueError(f"it lacks {len(missing)} of the {len(expected)} tensors of {name}, such as {missing[0]}")
    if left := [origin[key] for key in ours if key not in expected]:
        raise ValueError(f"it has {len(left)} tensors that {name} has not, such as {left[0]}")
    for key, shape in expected.items():
        if tuple(ours[key].shape) != shape:
            raise ValueError(f"{origin[key]} has shape {tuple(ours[key].shape)}, in {name} it has {shape}")
    cast = {key: value.float() if value.is_floating_point() else value for key, value in ours.items()}
    return Converted(section, {key: cast[key].contiguous() for key in expected}, unused, layout.source, prefix)


def candidates(weights: Weights) -> list[tuple[str, str]]:
    """The published networks that a state dict may hold, by one name that gives each away, with its prefix."""
    found = []
    for name, layout in LAYOUTS.items():
        for key in weights:
            prefix = key.removesuffix(layout.marker)
            if key.endswith(layout.marker) and (not prefix or prefix.endswith(".")):
                found.append((name, prefix))
    return found


def misfit(weights: Weights, name: str, prefix: str) -> str:
    """Why a state dict is not the published network `name`: the first tensor that is wrong. Empty where it is."""
    try:
        convert(weights, name, prefix)
    except ValueError as error:
        return str(error)
    return ""


def recognize(weights: Weights, possible: Sequence[tuple[str, str]]) -> list[Converted]:
    """Those of the `candidates` of a state dict that it holds whole."""
    found = []
    for name, prefix in possible:
        try:
            found.append(convert(weights, name, prefix))
        except ValueError:
            continue
    return found


@cache
def _shapes(name: str, section: tuple[tuple[str, Any], ...]) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of one of our networks."""
    arguments = {key: value for key, value in section if key != "name"}
    with torch.device("meta"):
        network = NETWORKS[name](**arguments)
    return {key: tuple(value.shape) for key, value in network.state_dict().items()}


def _section(name: str, ours: Weights) -> dict[str, Any]:
    """The network's section of a recipe, with the sizes that its tensors show."""
    layout = LAYOUTS[name]
    head = ours.get(layout.head)
    if head is None or head.ndim <= layout.axis:
        raise ValueError(f"it lacks what would be {layout.head} of {name}, which shows the number of classes")
    section = {"name": name, "num_classes": head.shape[layout.axis]}
    accepted = inspect.signature(NETWORKS[name]).parameters
    section["in_channels"] = accepted["in_channels"].default
    if layout.as_published:
        section["as_published"] = True
    if "image_size" in accepted and "transformer.position" in ours:
        patches = ours["transformer.position"].shape[1] - len(layout.joined[1])
        section["image_size"] = 16 * math.isqrt(max(patches, 1))
    return section
