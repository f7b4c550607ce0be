"""The loop: minimize an objective, validate, keep last and best."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import Dataset
from tqdm import tqdm

from utils.recipe.schema import Training
from utils.training import checkpoints
from utils.training.interruption import Interruption
from utils.training.launch import quiet
from utils.training.loading import epoch_batches, load_batches
from utils.training.optimization import Schedule, gradient_shares, make_optimizer
from utils.training.progress import Progress, network_content, restore, restore_process, training_content
from utils.training.term_watch import TermWatch
from utils.training.tracking import Tracker

Validate = Callable[[nn.Module, int], tuple[dict[str, float], list[dict[str, Any]]]]


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
    memory_format = torch.channels_last if settings.channels_last else torch.contiguous_format
    fabric.to_device(objective).to(memory_format=memory_format)
    steps = len(epoch_batches(len(dataset), settings.batch_size, seed, 0, world=fabric.world_size))
    optimizer = make_optimizer([value for value in objective.parameters() if value.requires_grad], settings)
    schedule = Schedule(optimizer, settings, steps)
    progress = Progress() if resumed is None else restore(resumed, objective, optimizer, schedule)
    runner = torch.compile(objective) if settings.compile else objective
    runner, optimizer = fabric.setup(runner, optimizer)
    if resumed is not None:
        restore_process(fabric, resumed["training"])
    elif fabric.world_size > 1:
        torch.manual_seed(seed + fabric.global_rank)  # the processes see other images and must drop other units
    loop = _Loop(
        *(fabric, objective, runner, optimizer, schedule, dataset, settings, output, identity, seed, tracker),
        *(steps, memory_format, score, progress),
        is_saved=resumed is not None,
    )
    with Interruption() as interruption:
        while not progress.is_done(settings):
            if loop.train_epoch(interruption):
                return progress
            loop.end_epoch(validate)
            if progress.epoch < settings.epochs:
                progress.signal = _any_signal(fabric, interruption)
                if progress.signal:
                    return progress
    return progress


@dataclass
class _Loop:
    """What the parts of `fit` share."""

    fabric: Fabric
    objective: nn.Module
    runner: nn.Module
    optimizer: Optimizer
    schedule: Schedule
    dataset: Dataset
    settings: Training
    output: Path
    identity: dict[str, Any]
    seed: int
    tracker: Tracker
    steps: int
    memory_format: torch.memory_format
    score: str
    progress: Progress
    is_saved: bool
    saved_at: float = field(default_factory=time.monotonic)

    def train_epoch(self, interruption: Interruption) -> bool:
        """Trains from where the run stands to the end of the epoch; True when a signal ended it before."""
        fabric, settings, progress = self.fabric, self.settings, self.progress
        if progress.position == self.steps:  # saved before a validation that was killed: resuming hid these scalars
            self.tracker.scalars(progress.logged, self.step)
        watch = TermWatch(self.objective.weights, progress.losses, progress.window)
        progress.window = []
        self.runner.train()
        bar = tqdm(
            self._loader(),
            f"epoch {progress.epoch + 1}/{settings.epochs}",
            total=self.steps,
            initial=progress.position,
            unit="step",
            disable=quiet(fabric),
            leave=False,
        )
        for batch in bar:
            progress.position, progress.logged = progress.position + 1, {}
            self._train_step(batch, watch)
            is_last = progress.position == self.steps
            logs = is_last or self.step % settings.log_every == 0
            if logs:
                report = watch.report()
                self._log(report | {"train/learning_rate": self.schedule.learning_rate})
                bar.set_postfix_str(_postfix(report, progress, self.score))
                # The first process's clock decides for all: saving gathers from every process. best.ckpt, which
                # validation writes, is never there without last.ckpt.
                elapsed = _all_processes(fabric, time.monotonic() - self.saved_at)[0]
                if elapsed > 60 * settings.checkpoint_minutes or (is_last and not self.is_saved):
                    self.save()
            # Processes must stop at the same step; asking each other at every step would slow them down.
            if not is_last and (logs or fabric.world_size == 1):
                progress.signal = _any_signal(fabric, interruption)
                if progress.signal:
                    progress.window = watch.checked()  # what is not finite must not be saved
                    self.save()
                    return True
        return False

    @property
    def step(self) -> int:
        """The number of the step that was done last, from 0."""
        return self.progress.epoch * self.steps + self.progress.position - 1

    def _loader(self) -> Any:
        """The batches of this epoch that are still to be done."""
        progress, settings = self.progress, self.settings
        batches = epoch_batches(
            len(self.dataset),
            settings.batch_size,
            self.seed,
            progress.epoch,
            self.fabric.global_rank,
            self.fabric.world_size,
            self.dataset.sampling_weights,
        )
        self.dataset.epoch = progress.epoch
        on_gpu = self.fabric.device.type == "cuda"
        return load_batches(self.dataset, batches[progress.position :], settings.workers, on_gpu)

    def _train_step(self, batch: dict[str, Any], watch: TermWatch) -> None:
        fabric, settings, weights = self.fabric, self.settings, self.objective.weights
        image = fabric.to_device(batch["image"]).contiguous(memory_format=self.memory_format)
        target = fabric.to_device(batch["target"])
        if self.step == 0 or (settings.share_every and self.step % settings.share_every == 0):
            shares = gradient_shares(fabric, self.objective, image, target)
            self._log({f"gradient_share/{name}": share for name, share in shares.items()})
        losses = self.runner(image, target)
        fabric.backward(sum(weights[name] * loss for name, loss in losses.items()))
        if settings.clip_norm is not None:
            fabric.clip_gradients(self.runner, self.optimizer, max_norm=settings.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.schedule.step()
        watch.add(losses, settings.batch_size, self.step, batch["case"])

    def _log(self, scalars: dict[str, float]) -> None:
        self.tracker.scalars(scalars, self.step)
        self.progress.logged |= scalars

    def end_epoch(self, validate: Validate) -> None:
        """Validates where it is due, keeps the best, and saves."""
        progress, settings, step = self.progress, self.settings, self.step
        progress.epoch, progress.position = progress.epoch + 1, 0
        loss = sum(progress.losses) / self.steps
        row: dict[str, Any] = {"epoch": progress.epoch, "loss": round(loss, 6)}
        progress.losses, progress.logged = [], {}
        if progress.epoch % settings.validate_every == 0 or progress.epoch == settings.epochs:
            network = self.objective.network
            _share_buffers(self.fabric, network)
            progress.scores, progress.cases = validate(network, step)
            self.tracker.scalars({f"val/{name}": value for name, value in progress.scores.items()}, step)
            value = progress.scores[self.score]
            self.schedule.validated(value)
            row |= {name: round(value, 6) for name, value in progress.scores.items()}
            if value > progress.best:
                progress.best, progress.best_epoch = value, progress.epoch
                if self.fabric.is_global_zero:
                    checkpoints.save(network_content(self.identity, network, progress), self.output / "best.ckpt")
            if self.fabric.is_global_zero:
                tqdm.write(
                    f"epoch {progress.epoch:>3}/{settings.epochs}  loss {row['loss']:.4f}  val {self.score} "
                    f"{value:.4f}  best {progress.best:.4f} (epoch {progress.best_epoch})"
                )
        self.tracker.epoch(row)
        self.save()

    def save(self) -> None:
        """Writes last.ckpt. Its `step` is the first one whose scalars a resumed run writes again."""
        fabric, progress = self.fabric, self.progress
        random_states = _all_processes(fabric, checkpoints.random_states())
        if fabric.is_global_zero:
            self.tracker.flush()
            training = training_content(progress, self.objective, self.optimizer, self.schedule) | {
                "random": random_states,
                "precision": fabric.strategy.precision.state_dict(),
                "step": progress.epoch * self.steps + progress.position - (progress.position == self.steps),
            }
            content = network_content(self.identity, self.objective.network, progress) | {"training": training}
            checkpoints.save(content, self.output / "last.ckpt")
        fabric.barrier()
        self.is_saved, self.saved_at = True, time.monotonic()


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
