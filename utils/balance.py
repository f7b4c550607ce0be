"""How much a method's terms weigh against the task loss when training starts."""

from __future__ import annotations

import statistics

from lightning_fabric import Fabric
from torch.utils.data import Dataset, default_collate

from utils.loading import epoch_batches
from utils.objectives import Distiller
from utils.optimization import gradient_shares

BATCHES = 4


def balance(fabric: Fabric, distiller: Distiller, dataset: Dataset, batch_size: int, seed: int, share: float) -> float:
    """Scale all terms alike so that their gradient norms add up to `share` times the task loss's; returns the factor.

    Taken over the first batches of the run, the median of four, on the student's first weights. It leaves no trace but
    the weights. What the terms weigh against each other stays as the method has it.
    """
    was_training = distiller.training
    distiller.train()
    dataset.epoch = 0
    ratios = []
    batches = epoch_batches(len(dataset), batch_size, seed, 0, weights=dataset.sampling_weights)[:BATCHES]
    for indices in batches:
        batch = fabric.to_device(default_collate([dataset[index] for index in indices]))
        of_task = gradient_shares(fabric, distiller, batch["image"], batch["target"])["task"]
        if 0 < of_task < 1:
            ratios.append((1 - of_task) / of_task)
    distiller.train(was_training)
    if not ratios:
        raise ValueError("distillation_share: at the start the task loss or the terms give no gradient to compare")
    factor = share / statistics.median(ratios)
    for name, term in zip(distiller.names, distiller.terms, strict=True):
        term.weight *= factor
        distiller.weights[name] = term.weight
    return factor
