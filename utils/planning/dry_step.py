"""The memory and the time of a training step, measured in a process of its own: `python -m utils.planning.dry_step`.

It reads a `Trial` as JSON from stdin and writes a `Measured` to stdout. Everything is as in a run (the optimizer, the
step with its captured graph on a GPU, the measurement of the terms' shares, a validation batch), only the images are
random numbers.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

STEPS = 2
STATES = 3  # as large as the weights, from the first step on: gradients and Adam's two means


@dataclass(frozen=True)
class Trial:
    """What is tried: the sections of a recipe, and the size of its data.

    Args:
        batch: Images of a training step and of a validation batch.
        size: (height, width) of a validation image; training images are squares of `side`.
        teacher: The teacher's network section; None where nothing is distilled.
    """

    network: dict[str, Any]
    teacher: dict[str, Any] | None
    distillation: list[dict[str, Any]]
    task_loss: dict[str, Any]
    in_channels: int
    class_names: list[str]
    batch: int
    side: int
    size: list[int]


@dataclass(frozen=True)
class Measured:
    """What a step and a validation batch take.

    Args:
        held: Bytes that stay without images: weights, gradients, the optimizer's state, and on a CPU the process.
        peak: Bytes at the peak, of the process on a CPU, of torch on a GPU.
        limit: Bytes that a run may take.
        seconds: Of a step.
    """

    held: int
    peak: int
    limit: int
    seconds: float
    seconds_of_validation: float
    device: str


def measure(trial: Trial) -> Measured:
    """Take some steps and validate a batch; the first step, which prepares much, is not timed."""
    import torch
    from lightning_fabric import seed_everything

    import utils.experiment.run
    import utils.training.tracking  # noqa: F401
    from networks import NETWORKS
    from utils.distillation.losses import TASK_LOSSES
    from utils.distillation.objective import Distiller
    from utils.distillation.terms import Task, read_terms
    from utils.evaluation.inference import make_metrics, predict
    from utils.machine import memory_limit
    from utils.prediction.volumes import peak_memory
    from utils.recipe.registry import build
    from utils.recipe.schema import Training
    from utils.training.launch import launch, memory_format
    from utils.training.optimization import gradient_shares, make_optimizer
    from utils.training.step import make_step

    settings = Training(batch_size=trial.batch)
    fabric = launch(settings)
    seed_everything(0, verbose=False)
    classes = len(trial.class_names) + 1
    given = {"in_channels": trial.in_channels, "num_classes": classes, "image_size": trial.side}
    network = build(NETWORKS, trial.network, "network", **given)
    teacher = None if trial.teacher is None else build(NETWORKS, trial.teacher, "network", **given)
    terms = read_terms(trial.distillation, num_classes=classes) if teacher is not None else {}
    objective = Distiller(network, Task(build(TASK_LOSSES, trial.task_loss, "task_loss")), teacher, terms)
    fabric.to_device(objective)
    learned = sum(value.numel() * value.element_size() for value in objective.parameters() if value.requires_grad)
    held = _taken(fabric.device) + STATES * learned
    image = torch.rand(trial.batch, trial.in_channels, trial.side, trial.side) * 2 - 1
    target = torch.randint(classes, (trial.batch, 1, trial.side, trial.side))
    image, target = fabric.to_device((image, target))
    with torch.no_grad():  # makes the projectors of terms
        objective(image[:2], target[:2])
    objective.to(memory_format=memory_format(settings))
    image = image.contiguous(memory_format=memory_format(settings))
    optimizer = make_optimizer([value for value in objective.parameters() if value.requires_grad], settings)
    runner, _, take = make_step(fabric, objective, optimizer, settings)
    runner.train()
    take.prepare(image, target)
    gradient_shares(fabric, objective, image, target)
    times = []
    for _ in range(STEPS):
        started = time.perf_counter()
        float(take(image, target).sum())
        times.append(time.perf_counter() - started)
    network.eval()
    metrics = make_metrics({"name": "volume_dice"}, trial.class_names)
    started = time.perf_counter()
    with torch.no_grad():
        whole = torch.rand(trial.batch, trial.in_channels, *trial.size) * 2 - 1
        truth = fabric.to_device(torch.randint(classes, (trial.batch, 1, *trial.size)))
        logits = predict(fabric, network, whole, settings.channels_last)
        for metric in metrics:
            metric.update(logits, truth, ["case"] * trial.batch)
            metric.compute()
    seconds_of_validation = time.perf_counter() - started
    if fabric.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(fabric.device)
        peak, limit = torch.cuda.max_memory_reserved(fabric.device), free + torch.cuda.memory_reserved(fabric.device)
    else:
        peak, limit = peak_memory(), int(memory_limit())
    return Measured(held, peak, limit, min(times[1:]), seconds_of_validation, fabric.device.type)


def _taken(device: torch.device) -> int:
    """Bytes that the process has now, on a GPU torch; where the system does not tell, the process's peak so far."""
    import torch

    from utils.prediction.volumes import peak_memory

    if device.type == "cuda":
        return torch.cuda.memory_reserved(device)
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:  # not Linux
        return peak_memory()
    return pages * os.sysconf("SC_PAGE_SIZE")


def main() -> int:
    """Answers one trial; where it fails, the last line of stderr says why."""
    trial = Trial(**json.load(sys.stdin))
    result = measure(trial)
    print(json.dumps(asdict(result)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
