"""What each form of a network scores on the val split, and how long it takes, on this machine's processor."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from utils.evaluation.agreement import TeachersLabels
from utils.evaluation.inference import case_batches, evaluate, make_metrics, predict
from utils.experiment.labels import against
from utils.recipe.schema import Training
from utils.training.launch import launch

TIMED_BATCH = 4  # as predict.py on a processor
ROUNDS, SECONDS = 15, 60.0
LARGEST_LOSS = 0.01  # of a score, by int8


@dataclass(frozen=True)
class Measured:
    """Scores by form and name, on whole val cases; milliseconds for an image, the median over rounds in turn."""

    split: str
    score: str
    cases: int
    images: int
    empty_mask_rule: str | None
    scores: dict[str, dict[str, float]]
    milliseconds: dict[str, float]
    timed_shape: list[int]
    threads: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure(
    recipe: Mapping[str, Any], dataset: Dataset, forms: Mapping[str, nn.Module], most_cases: int | None = None
) -> Measured:
    """Score and time every form in fp32 (or what its file has) on the processor.

    recipe: of the checkpoint; its metric is taken. forms: networks by name, each from an image to logits; where the
    cases have no labels, what the first one answers takes their place.
    most_cases: score so many, evenly chosen (None: all).
    """
    settings = recipe["training"]
    fabric = launch(Training(accelerator="cpu", precision="32-true"))
    channels_last = bool(settings.get("channels_last", False))
    section, targets = against(recipe["metric"], "labels"), None
    if not dataset.has_labels:  # then every form is held to what the first one answers
        first = next(iter(forms.values()))
        section = {**section, "against": "itself"}
        targets = TeachersLabels(lambda batch: predict(fabric, first, batch["image"], channels_last))
    count = len(dataset.cases)
    wanted = min(count, most_cases or count)
    cases = [dataset.cases[place * count // wanted] for place in range(wanted)]
    indices = dataset.case_indices()
    scores = {}
    for name, network in forms.items():
        metrics = make_metrics(section, dataset.class_names)
        batch_size = settings.get("batch_size", TIMED_BATCH)
        scores[name], _ = evaluate(
            fabric,
            network,
            dataset,
            metrics,
            batch_size=batch_size,
            channels_last=channels_last,
            cases=cases,
            targets=targets,
            description=f"val: {name}",
        )
    batch = timed_batch(dataset)
    return Measured(
        split="val",
        score=metrics[0].selects,
        cases=len(cases),
        images=sum(len(indices[case]) for case in cases),
        empty_mask_rule=getattr(metrics[0], "empty_mask_rule", None),
        scores=scores,
        milliseconds=time_forms(forms, batch, channels_last),
        timed_shape=list(batch.shape),
        threads=torch.get_num_threads(),
    )


def timed_batch(dataset: Dataset) -> Tensor:
    """A full batch of images of one size, from the middle of the split."""
    batches = case_batches(dataset, dataset.cases, TIMED_BATCH)
    full = [batch for batch in batches if len(batch) == max(map(len, batches))]
    return dataset.batch(full[len(full) // 2])["image"]


@torch.inference_mode()
def time_forms(forms: Mapping[str, nn.Module], batch: Tensor, channels_last: bool) -> dict[str, float]:
    """Milliseconds for an image of `batch`: the forms in turn, again and again, so that all meet the same machine."""
    laid_out = batch.contiguous(memory_format=torch.channels_last) if channels_last else batch
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    started = time.perf_counter()
    for round_ in range(ROUNDS + 1):
        for name, network in forms.items():
            before = time.perf_counter()
            network(laid_out)
            if round_:  # the first warms up
                seconds[name].append(time.perf_counter() - before)
        if round_ and time.perf_counter() - started > SECONDS:
            break
    return {name: 1e3 * statistics.median(values) / len(batch) for name, values in seconds.items()}
