"""Optimizer, learning-rate schedule, and how the terms share the gradient."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from utils.config import Training


def make_optimizer(parameters: Iterable[nn.Parameter], settings: Training) -> Optimizer:
    # One kernel for all parameters; under 16-mixed, where the scaler must unscale before clipping, Fabric refuses it.
    fused = settings.precision != "16-mixed"
    common = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay, "fused": fused}
    if settings.optimizer == "sgd":
        return SGD(parameters, momentum=0.9, nesterov=True, **common)
    return {"adam": Adam, "adamw": AdamW}[settings.optimizer](parameters, **common)


def make_schedule(optimizer: Optimizer, settings: Training, steps_per_epoch: int) -> LambdaLR:
    """Linear warm-up, then a cosine (or nothing) down to `minimum_learning_rate`, by step.

    The published systems step the cosine once an epoch; by step it is the same curve without stairs.
    """
    warmup = round(settings.warmup_epochs * steps_per_epoch)
    total = max(settings.epochs * steps_per_epoch - warmup, 1)
    floor = min(settings.minimum_learning_rate / settings.learning_rate, 1.0)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        if settings.schedule == "constant":
            return 1.0
        progress = min((step - warmup) / total, 1.0)
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))

    return LambdaLR(optimizer, factor)


def gradient_shares(fabric: Fabric, objective: nn.Module, image: Tensor, target: Tensor) -> dict[str, float]:
    """Each weighted loss's share of the gradient norm on the network's parameters; the shares add up to 1.

    A forward of its own, outside Fabric's wrapper and torch.compile, which allow one backward only. It leaves no trace:
    buffers (batch statistics) and random states are put back.

    Raises ValueError naming a loss that does not depend on the network at all.
    """
    parameters = [parameter for parameter in objective.network.parameters() if parameter.requires_grad]
    buffers = {name: buffer.clone() for name, buffer in objective.named_buffers()}
    devices = [fabric.device] if fabric.device.type == "cuda" else []
    with torch.random.fork_rng(devices), fabric.autocast():
        losses = objective(image, target)
    norms = {}
    for name, loss in losses.items():
        gradients = [None]
        if loss.requires_grad:
            weighted = objective.weights[name] * loss
            gradients = torch.autograd.grad(weighted, parameters, retain_graph=True, allow_unused=True)
        norms[name] = [gradient.float().norm() for gradient in gradients if gradient is not None]
        if not norms[name]:
            raise ValueError(
                f"the term {name} gives the network no gradient: does its loss depend on the student's tap?"
            )
    with torch.no_grad():
        for name, buffer in objective.named_buffers():
            buffer.copy_(buffers[name])
    norms = {name: float(torch.linalg.vector_norm(torch.stack(parts))) for name, parts in norms.items()}
    whole = sum(norms.values()) or 1.0
    return {name: norm / whole for name, norm in norms.items()}
