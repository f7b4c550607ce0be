"""Optimizer, learning-rate schedule, and how the terms share the gradient."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from utils.recipe.schema import Training


def make_optimizer(parameters: Iterable[nn.Parameter], settings: Training) -> Optimizer:
    # One kernel for all parameters; under 16-mixed, where the scaler must unscale before clipping, Fabric refuses it.
    fused = settings.precision != "16-mixed"
    common = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay, "fused": fused}
    if settings.optimizer == "sgd":
        return SGD(parameters, momentum=0.9, nesterov=True, **common)
    return {"adam": Adam, "adamw": AdamW}[settings.optimizer](parameters, **common)


def place_learning_rate(optimizer: Optimizer, device: torch.device, captured: bool = False) -> None:
    """On a GPU the learning rate is a tensor there, which a captured step reads anew each time; elsewhere a number."""
    for group in optimizer.param_groups:
        rate, on_gpu = float(group["lr"]), device.type == "cuda" and group["fused"]
        group["lr"] = torch.tensor(rate, device=device) if on_gpu else rate
        if "capturable" in group:
            group["capturable"] = captured


class Schedule:
    """The learning rate: by step a linear warm-up and a cosine (or nothing), or by validation a plateau.

    The published systems step the cosine once an epoch; by step it is the same curve without stairs.
    """

    def __init__(self, optimizer: Optimizer, settings: Training, steps_per_epoch: int) -> None:
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

        self.optimizer = optimizer
        self.by_score = settings.schedule == "plateau"
        if self.by_score:
            self.schedule = ReduceLROnPlateau(
                optimizer,
                mode="max",
                factor=settings.plateau_factor,
                patience=settings.plateau_patience,
                threshold=0.0,
                min_lr=settings.minimum_learning_rate,
            )
        else:
            self.schedule = LambdaLR(optimizer, factor)

    def step(self) -> None:
        """After each step."""
        if not self.by_score:
            self.schedule.step()

    def validated(self, score: float) -> None:
        """After each validation."""
        if self.by_score:
            self.schedule.step(score)

    @property
    def learning_rate(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    def state_dict(self) -> dict[str, Any]:
        return self.schedule.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.schedule.load_state_dict(state)


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
