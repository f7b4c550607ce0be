"""Runs a network over whole cases, all slices, and scores them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from datasets.slices.transforms import unpad
from utils.evaluation.metrics import METRICS
from utils.evaluation.source_grid import OnSource
from utils.recipe.contracts import Metric, Samples
from utils.recipe.registry import build
from utils.training.device import Device
from utils.training.launch import all_processes, quiet
from utils.training.loading import Loader

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Targets = Callable[[dict[str, Any]], Tensor]


def case_batches(dataset: Samples, cases: Sequence[str], batch_size: int) -> list[list[int]]:
    """Sample indices in batches of one size: full ones but for the last of a size, case after case."""
    indices, sizes = dataset.case_indices(), dataset.sizes
    groups: dict[tuple[int, int], list[int]] = {}
    for case in cases:
        groups.setdefault(tuple(sizes[case]), []).extend(indices[case])
    return [
        group[start : start + batch_size] for group in groups.values() for start in range(0, len(group), batch_size)
    ]


def make_metrics(section: dict[str, Any], class_names: Sequence[str]) -> list[Metric]:
    """Fresh metrics: the recipe's first, then those computed beside it under names of their own."""
    first = build(METRICS, section, "metric", class_names=class_names)
    return [first, *(METRICS[name](class_names=class_names) for name in first.beside)]


def predict(device: Fabric | Device, network: nn.Module, image: Tensor, channels_last: bool = False) -> Tensor:
    """Logits in float32, on the device, of a batch on whatever device; the caller holds no_grad and eval."""
    image = device.to_device(image)
    if channels_last:
        image = image.contiguous(memory_format=torch.channels_last)
    with device.autocast():
        return network(image).float()


@torch.no_grad()
def evaluate(
    fabric: Fabric,
    network: nn.Module,
    dataset: Samples,
    metrics: Sequence[Metric],
    *,
    batch_size: int,
    loader: Loader | None = None,
    channels_last: bool = False,
    cases: Sequence[str] | None = None,
    source: OnSource | None = None,
    targets: Targets | None = None,
    description: str = "validate",
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Scores `cases` (None: all of the dataset's) with every metric. A `loader` of the dataset serves for many calls.

    Without `source` resampled slices are scored as they are stored, with it on the grids of their sources. `targets`
    makes the targets of a batch, padded as its images are; None: its own.
    The cases are shared out over the processes and the counts gathered, so each process returns the same scores. The
    device is not waited for before its last batch, unless a metric asks it for values.
    Returns all metrics' means by name, and the rows (one a case, or a case and class) of the first metric.
    """
    was_training = network.training
    network.eval()
    cases = list(dataset.cases if cases is None else cases)
    mine = cases[fabric.global_rank :: fabric.world_size]
    batches = case_batches(dataset, mine, batch_size)
    loader = loader or Loader(dataset, fabric.device)
    for batch in tqdm(loader(batches), description, len(batches), leave=False, unit="batch", disable=quiet(fabric)):
        logits = predict(fabric, network, batch["image"], channels_last)
        target = batch["target"] if targets is None else targets(batch)
        if "size" in batch:
            logits, target = unpad(logits, batch["size"]), unpad(target, batch["size"])
        scored = [(logits, target, batch["case"])] if source is None else source(logits, target, batch["case"])
        for part in scored:
            for metric in metrics:
                metric.update(*part)
    network.train(was_training)
    _gather(fabric, metrics)
    scores = {name: value for metric in metrics for name, value in metric.compute().items()}
    return scores, metrics[0].per_case()


def _gather(fabric: Fabric, metrics: Sequence[Metric]) -> None:
    """Adds the counts of the other processes to those of this one."""
    if fabric.world_size == 1:  # what is scored in one process only need not know how to be merged
        return
    states = all_processes(fabric, [metric.state() for metric in metrics])
    for other, state in enumerate(states):
        if other != fabric.global_rank:
            for metric, part in zip(metrics, state, strict=True):
                metric.merge(part)
