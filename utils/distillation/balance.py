"""How much a method's terms weigh against the task loss."""

from __future__ import annotations

import copy
import statistics

import torch
from lightning_fabric import Fabric

from utils.distillation.objective import Distiller, answers_in
from utils.recipe.contracts import Samples
from utils.recipe.schema import Training
from utils.training.optimization import gradient_shares, make_optimizer
from utils.training.order import order_of

WARM_UP, MEASURED = 32, 4  # steps on the task alone, then batches


def balance(
    fabric: Fabric, distiller: Distiller, dataset: Samples, settings: Training, seed: int, share: float
) -> float:
    """Scale all terms alike so that their gradient norms add up to `share` times the task loss's; returns the factor.

    At a student's first, random weights that ratio says little: it differs severalfold from seed to seed, and for some
    losses by a hundred from what it is some steps later. So it is measured after 32 steps on the task loss alone, as
    the median of the four batches that follow. Then the first weights are put back: it leaves no trace but the factor.
    Seeds still differ, by a factor of five where a loss is steep. What the terms weigh against each other stays as the
    method has it.
    """
    was_training = distiller.training
    distiller.train()
    dataset.epoch = 0
    order = order_of(dataset, settings.batch_size, seed).epoch(0)
    first = copy.deepcopy(distiller.network.state_dict())
    task = Distiller(
        distiller.network, distiller.task, partly_labeled=distiller.partly_labeled, channels=distiller.channels
    ).train()
    optimizer = make_optimizer((p for p in distiller.network.parameters() if p.requires_grad), settings)
    ratios = []
    with torch.random.fork_rng([fabric.device] if fabric.device.type == "cuda" else []):
        for step in range(WARM_UP + MEASURED):
            batch = fabric.to_device(dataset.batch(order[step % len(order)]))
            if step < WARM_UP:
                with fabric.autocast():
                    loss = task(batch["image"], batch["target"])["task"]
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
            else:
                with distiller.knowing(answers_in(batch)):
                    of_task = gradient_shares(fabric, distiller, batch["image"], batch["target"])["task"]
                if 0 < of_task < 1:
                    ratios.append((1 - of_task) / of_task)
    distiller.network.load_state_dict(first)
    distiller.train(was_training)
    if not ratios:
        raise ValueError("distillation_share: the task loss or the terms give no gradient to compare")
    factor = fabric.broadcast(share / statistics.median(ratios))  # of processes on GPUs a last digit may differ
    for term in distiller.terms:
        term.weight *= factor
    return factor
