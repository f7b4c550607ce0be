"""The loop: minimize an objective, validate, keep last and best."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import Dataset
from tqdm import tqdm

from utils import checkpoints
from utils.config import Training
from utils.interruption import Interruption
from utils.launch import quiet
from utils.loading import epoch_batches, load_batches
from utils.optimization import Schedule, gradient_shares, make_optimizer
from utils.term_watch import TermWatch
from utils.tracking import Tracker

Validate = Callable[[nn.Module, int], tuple[dict[str, float], list[dict[str, Any]]]]


@dataclass
class Progress:
    """Where a run stands: whole epochs done, steps done in the next, the best score, the last validation,
    and the losses of the steps since the epoch began."""

    epoch: int = 0
    position: int = 0
    best: float = float("-inf")
    best_epoch: int = 0
    scores: dict[str, float] = field(default_factory=dict)
    cases: list[dict[str, Any]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    signal: int | None = None


def fit(
    fabric: Fabric,
    objective: nn.Module,
    dataset: Dataset,
    validate: Validate,
    settings: Training,
    output: Path,
    *,
    identity: dict[str, Any],
    score: str,
    seed: int,
    tracker: Tracker,
    resumed: dict[str, Any] | None = None,
) -> Progress:
    """Minimizes `objective` over `dataset` and writes OUTPUT/last.ckpt and OUTPUT/best.ckpt.

    `validate(network, step)` returns the scores of whole val cases and one row a case and class; `score` names the one
    that selects best.ckpt. `identity` is what makes a checkpoint rebuild its network: it is saved in both files.
    `resumed` is the content of last.ckpt to go on from: model, optimizer, schedule, position in the epoch and random
    states, so that an interrupted run ends in the same weights.

    Returns the progress; its `signal` is set when SIGINT or SIGTERM ended the run early.
    Raises ValueError naming the first term that was not finite, and a term without a gradient.
    """
    network, weights = objective.network, objective.weights
    memory_format = torch.channels_last if settings.channels_last else torch.contiguous_format
    fabric.to_device(objective).to(memory_format=memory_format)
    steps = len(epoch_batches(len(dataset), settings.batch_size, seed, 0, world=fabric.world_size))
    optimizer = make_optimizer([value for value in objective.parameters() if value.requires_grad], settings)
    schedule = Schedule(optimizer, settings, steps)
    progress = Progress() if resumed is None else _restore(resumed, objective, optimizer, schedule)
    runner = torch.compile(objective) if settings.compile else objective
    runner, optimizer = fabric.setup(runner, optimizer)
    if resumed is not None:
        _restore_of_process(fabric, resumed["training"])
    elif fabric.world_size > 1:
        torch.manual_seed(seed + fabric.global_rank)  # the processes see other images and must drop other units

    def save_last() -> None:
        random_states = _all_processes(fabric, checkpoints.random_states())
        if fabric.is_global_zero:
            training = _training_state(progress, objective, optimizer, schedule)
            training |= {
                "random": random_states,
                "precision": fabric.strategy.precision.state_dict(),
                "step": progress.epoch * steps + progress.position,
            }
            checkpoints.save(_content(identity, network, progress) | {"training": training}, output / "last.ckpt")
        fabric.barrier()

    saved_at = time.monotonic()
    with Interruption() as interruption:
        while not _done(progress, settings):
            epoch, first = progress.epoch, progress.position
            batches = epoch_batches(
                len(dataset),
                settings.batch_size,
                seed,
                epoch,
                fabric.global_rank,
                fabric.world_size,
                dataset.sampling_weights,
            )
            dataset.epoch = epoch
            loader = load_batches(dataset, batches[first:], settings.workers, fabric.device.type == "cuda")
            watch = TermWatch(weights, progress.losses)
            runner.train()
            bar = tqdm(
                loader,
                f"epoch {epoch + 1}/{settings.epochs}",
                total=steps,
                initial=first,
                unit="step",
                disable=quiet(fabric),
                leave=False,
            )
            for position, batch in enumerate(bar, first):
                step = epoch * steps + position
                image = fabric.to_device(batch["image"]).contiguous(memory_format=memory_format)
                target = fabric.to_device(batch["target"])
                if step == 0 or (settings.share_every and step % settings.share_every == 0):
                    shares = gradient_shares(fabric, objective, image, target)
                    tracker.scalars({f"gradient_share/{name}": share for name, share in shares.items()}, step)
                losses = runner(image, target)
                fabric.backward(sum(weights[name] * loss for name, loss in losses.items()))
                if settings.clip_norm is not None:
                    fabric.clip_gradients(runner, optimizer, max_norm=settings.clip_norm)
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
                progress.position = position + 1
                watch.add(losses, settings.batch_size, step, batch["case"])
                logs = progress.position == steps or step % settings.log_every == 0
                if logs:
                    report = watch.report()
                    tracker.scalars(report | {"train/learning_rate": schedule.learning_rate}, step)
                    bar.set_postfix_str(_postfix(report, progress, score))
                    # The first process's clock decides for all: saving gathers from every process.
                    if _all_processes(fabric, time.monotonic() - saved_at)[0] > 60 * settings.checkpoint_minutes:
                        save_last()
                        saved_at = time.monotonic()
                # Processes must stop at the same step; asking each other at every step would slow them down.
                if progress.position < steps and (logs or fabric.world_size == 1):
                    progress.signal = _any_signal(fabric, interruption)
                    if progress.signal:
                        if watch.window:
                            watch.report()  # what is not finite must not be saved
                        save_last()
                        return progress
            progress.epoch, progress.position = epoch + 1, 0
            row: dict[str, Any] = {"epoch": progress.epoch, "loss": round(sum(progress.losses) / steps, 6)}
            progress.losses = []
            if progress.epoch % settings.validate_every == 0 or progress.epoch == settings.epochs:
                _share_buffers(fabric, network)
                progress.scores, progress.cases = validate(network, step)
                tracker.scalars({f"val/{name}": value for name, value in progress.scores.items()}, step)
                schedule.validated(progress.scores[score])
                row |= {name: round(value, 6) for name, value in progress.scores.items()}
                if progress.scores[score] > progress.best:
                    progress.best, progress.best_epoch = progress.scores[score], progress.epoch
                    if fabric.is_global_zero:
                        checkpoints.save(_content(identity, network, progress), output / "best.ckpt")
                if fabric.is_global_zero:
                    tqdm.write(
                        f"epoch {progress.epoch:>3}/{settings.epochs}  loss {row['loss']:.4f}  "
                        f"val {score} {progress.scores[score]:.4f}  best {progress.best:.4f} "
                        f"(epoch {progress.best_epoch})"
                    )
            tracker.epoch(row)
            save_last()
            saved_at = time.monotonic()
            if progress.epoch < settings.epochs:
                progress.signal = _any_signal(fabric, interruption)
                if progress.signal:
                    return progress
    return progress


def _content(identity: dict[str, Any], network: nn.Module, progress: Progress) -> dict[str, Any]:
    """What both checkpoints hold: the network and all that is needed to rebuild and to judge it."""
    return identity | {
        "weights": network.state_dict(),
        "scores": {"scores": progress.scores, "cases": progress.cases},
        "epoch": progress.epoch,
    }


def _training_state(
    progress: Progress, objective: nn.Module, optimizer: Optimizer, schedule: Schedule
) -> dict[str, Any]:
    """What last.ckpt holds beside: the way to go on."""
    terms = getattr(objective, "terms", None)
    return {
        "progress": asdict(progress) | {"signal": None},
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "terms": terms.state_dict() if terms is not None else {},
    }


def _restore(resumed: dict[str, Any], objective: nn.Module, optimizer: Optimizer, schedule: Schedule) -> Progress:
    state = resumed["training"]
    objective.network.load_state_dict(resumed["weights"])
    if hasattr(objective, "terms"):
        objective.terms.load_state_dict(state["terms"])
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    return Progress(**state["progress"])


def _restore_of_process(fabric: Fabric, state: dict[str, Any]) -> None:
    if len(state["random"]) != fabric.world_size:
        raise ValueError(
            f"the run was stopped with {len(state['random'])} processes and cannot go on with {fabric.world_size}: "
            "random states are kept by process; start the same number"
        )
    checkpoints.restore_random_states(state["random"][fabric.global_rank])
    fabric.strategy.precision.load_state_dict(state["precision"])


def _done(progress: Progress, settings: Training) -> bool:
    """Whether all epochs are through, or no score has been better for `patience` of them."""
    stale = progress.best_epoch > 0 and settings.patience is not None
    return progress.epoch >= settings.epochs or (
        stale and progress.position == 0 and progress.epoch - progress.best_epoch >= settings.patience
    )


def _share_buffers(fabric: Fabric, network: nn.Module) -> None:
    """Gives every process the batch statistics of the first, which are those that are saved."""
    if fabric.world_size > 1:
        for buffer in network.buffers():
            torch.distributed.broadcast(buffer, 0)


def _postfix(report: dict[str, float], progress: Progress, score: str) -> str:
    parts = [f"loss {report['train/loss']:.3f}", f"{report['train/images_per_second']:.0f} images/s"]
    if progress.scores:
        parts.insert(1, f"val {score} {progress.scores[score]:.3f}")
    return ", ".join(parts)


def _any_signal(fabric: Fabric, interruption: Interruption) -> int | None:
    signals = _all_processes(fabric, interruption.signal)
    return next((int(signal) for signal in signals if signal), None)


def _all_processes(fabric: Fabric, value: Any) -> list[Any]:
    if fabric.world_size == 1:
        return [value]
    values: list[Any] = [None] * fabric.world_size
    torch.distributed.all_gather_object(values, value)
    return values
