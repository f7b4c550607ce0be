"""A table of what networks cost: parameters, multiply-accumulates and, if asked, milliseconds per image."""

from __future__ import annotations

import argparse
import inspect
from dataclasses import dataclass

import torch
from torch import nn
from tqdm import tqdm

from networks import CLASSIFICATION, NETWORKS, SEGMENTATION
from utils.evaluation.complexity import complexity, latency
from utils.recipe.registry import nearest
from utils.training.checkpoints import load, rebuild


@dataclass(frozen=True)
class Row:
    """A line of the table, as text."""

    name: str
    image: str
    parameters: str
    macs: str
    milliseconds: str


def count(arguments: argparse.Namespace) -> int:
    """Print a table of the networks' sizes, one for segmentation and one for classification."""
    counted = sorted(set(NETWORKS) - {"timm"})  # a model of timm has a name of its own
    for name in arguments.network or ():
        if name not in counted:
            raise ValueError(f"--network {name}: unknown{nearest(name, counted)}; one of {', '.join(counted)}")
    arguments.device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if arguments.time:
        refuse_device(arguments.device)
    tables = [measure(names, arguments) for names in grouped(arguments, counted)]
    for index, rows in enumerate(tables):
        if index:
            print()
        print_table(rows, arguments)
    if arguments.time:
        threads = f", {torch.get_num_threads()} threads" if arguments.device == "cpu" else ""
        print(f"ms: median of 20, batch 1, fp32, {arguments.device}{threads}")
    return 0


def refuse_device(name: str) -> None:
    """Raises ValueError for a device that this machine has not."""
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        why = str(error).splitlines()[0]
        raise ValueError(f"--device {name}: is not on this machine ({why}): give cpu, or leave the flag out") from None


def grouped(arguments: argparse.Namespace, counted: list[str]) -> list[list[str]]:
    """Names or checkpoints, one list a table: segmentation networks and classifiers apart."""
    if arguments.checkpoint:
        return [arguments.checkpoint]
    chosen = arguments.network or counted
    groups = [[name for name in chosen if name in registry] for registry in (SEGMENTATION, CLASSIFICATION)]
    return [group for group in groups if group]


def print_table(rows: list[Row], arguments: argparse.Namespace) -> None:
    """The image in the first line where it is the same for all, in a column where it is not."""
    images = {row.image for row in rows}
    print(f"1 image {rows[0].image}" if len(images) == 1 and not arguments.checkpoint else "1 image")
    columns = [("network", *(row.name for row in rows))]
    if len(images) > 1:
        columns.append(("image", *(row.image for row in rows)))
    widths = [max(map(len, column)) for column in columns]
    numbers = [("M parameters", "GMACs", "ms"), *((row.parameters, row.macs, row.milliseconds) for row in rows)]
    for texts, (parameters, macs, milliseconds) in zip(zip(*columns, strict=True), numbers, strict=True):
        left = "  ".join(f"{text:<{width}}" for text, width in zip(texts, widths, strict=True))
        print(f"{left}  {parameters:>12}  {macs:>8}  {milliseconds if arguments.time else '':>8}".rstrip())


def measure(names: list[str], arguments: argparse.Namespace) -> list[Row]:
    """A row for each name or checkpoint."""
    rows = []
    for name in tqdm(names, desc="networks", leave=False, disable=None):
        network, in_channels, image_size = build_network(name, arguments)
        size = complexity(network, in_channels, image_size)
        milliseconds = ""
        if arguments.time:
            image_shape = (1, in_channels, image_size, image_size)
            milliseconds = f"{latency(network.to(arguments.device), image_shape):.1f}"
        image = f"{in_channels}x{image_size}x{image_size}"
        rows.append(Row(name, image, f"{size.parameters / 1e6:.3f}", f"{size.macs / 1e9:.2f}", milliseconds))
    return rows


def build_network(name: str, arguments: argparse.Namespace) -> tuple[nn.Module, int, int]:
    """The network of a checkpoint or of a registry name, its input channels and image size; meta unless timed."""
    if arguments.checkpoint:
        checkpoint = load(name)
        network = rebuild(checkpoint)
        own_size = checkpoint["preprocessing"].get("image_size", 384)
        return network, checkpoint["network"].get("in_channels", 1), arguments.size or own_size
    accepted = inspect.signature(NETWORKS[name]).parameters
    in_channels = arguments.in_channels or accepted["in_channels"].default
    given = {"in_channels": in_channels, "num_classes": arguments.num_classes}
    size = arguments.size or (384 if name in SEGMENTATION else 224)
    if "image_size" in accepted:
        size = given["image_size"] = arguments.size or accepted["image_size"].default
    with torch.device("cpu" if arguments.time else "meta"):
        return NETWORKS[name](**given), in_channels, size
