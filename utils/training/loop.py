"""The loop: it minimizes an objective, validates, and keeps last.ckpt and best.ckpt."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm

from utils.recipe.contracts import Samples
from utils.recipe.schema import Training
from utils.training import checkpoints
from utils.training.interruption import Interruption
from utils.training.launch import all_processes, memory_format, quiet, share_buffers, synchronized
from utils.training.loading import Loader
from utils.training.memory import no_memory
from utils.training.optimization import Schedule, gradient_shares, make_optimizer
from utils.training.order import order_of
from utils.training.progress import Progress, network_content, restore, restore_process, training_content
from utils.training.step import CapturedStep, Step, make_step
from utils.training.term_watch import TermWatch
from utils.training.tracking import Tracker

Known = Callable[[Tensor, dict[str, Any]], dict[str, Tensor]]
Validate = Callable[[nn.Module, int], tuple[dict[str, float], list[dict[str, Any]]]]


@dataclass(frozen=True)
class Job:
    """What is trained, on what, and where the results go.

    Args:
        validate: Takes the network and the number of the last step; returns the scores of whole val cases, and a row
            for each case and class.
        score: The score that selects best.ckpt.
        identity: What rebuilds the network from a checkpoint; both files hold it.
        known: Takes images and their batch; returns the teacher's features by tap. Without it the teacher is asked in
            each step.
    """

    fabric: Fabric
    objective: nn.Module
    dataset: Samples
    settings: Training
    seed: int
    validate: Validate
    score: str
    output: Path
    identity: dict[str, Any]
    tracker: Tracker
    known: Known | None = None


@dataclass
class State:
    """What changes while a job runs. `runner` is the objective as Fabric calls it, `take` a step of its optimizer, and
    `steps` the length of an epoch."""

    runner: nn.Module
    take: Step | CapturedStep
    optimizer: Optimizer
    schedule: Schedule
    loader: Loader
    progress: Progress
    steps: int
    is_saved: bool
    saved_at: float = field(default_factory=time.monotonic)

    @property
    def step(self) -> int:
        """The number of the last step that was done, from 0."""
        return self.progress.epoch * self.steps + self.progress.position - 1


def fit(job: Job, resumed: dict[str, Any] | None = None) -> Progress:
    """Minimizes the objective over the dataset and writes OUTPUT/last.ckpt and OUTPUT/best.ckpt.

    `resumed` is the content of last.ckpt to go on from: model, optimizer, schedule, position in the epoch and random
    states, so that an interrupted run ends in the same weights.

    Returns the progress; its `signal` is set when SIGINT or SIGTERM ended the run early.
    Raises ValueError naming the first term that was not finite, and a term without a gradient.
    """
    state = begin(job, resumed)
    progress = state.progress
    with Interruption() as interruption:
        while progress.signal is None and not progress.is_done(job.settings):
            train_epoch(job, state, interruption)
            if progress.signal is None:
                validate_epoch(job, state)
                if progress.epoch < job.settings.epochs:
                    progress.signal = _any_signal(job.fabric, interruption)
    return progress


def begin(job: Job, resumed: dict[str, Any] | None) -> State:
    """The state to train from: a fresh one, or the one that last.ckpt holds."""
    fabric, objective, settings = job.fabric, job.objective, job.settings
    objective.network = synchronized(objective.network, settings, fabric.world_size)
    fabric.to_device(objective).to(memory_format=memory_format(settings))
    steps = order_of(job.dataset, settings.batch_size, job.seed).steps
    optimizer = make_optimizer([value for value in objective.parameters() if value.requires_grad], settings)
    schedule = Schedule(optimizer, settings, steps)
    progress = Progress() if resumed is None else restore(resumed, objective, optimizer, schedule)
    runner, optimizer, take = make_step(fabric, objective, optimizer, settings)
    if resumed is not None:
        restore_process(fabric, resumed["training"])
    elif fabric.world_size > 1:
        torch.manual_seed(job.seed + fabric.global_rank)  # the processes see other images and must drop other units
    loader = Loader(job.dataset, fabric.device, settings.workers)
    return State(runner, take, optimizer, schedule, loader, progress, steps, is_saved=resumed is not None)


def train_epoch(job: Job, state: State, interruption: Interruption) -> None:
    """Trains from where the run stands to the end of the epoch, or until a signal, which `progress` then holds."""
    fabric, settings, progress = job.fabric, job.settings, state.progress
    if progress.position == state.steps:  # saved before a validation that was killed: resuming hid these scalars
        job.tracker.scalars(progress.logged, state.step)
    watch = TermWatch(job.objective.weights, progress.losses, progress.window)
    progress.window = []
    state.runner.train()
    bar = tqdm(
        remaining_batches(job, state),
        f"epoch {progress.epoch + 1}/{settings.epochs}",
        total=state.steps,
        initial=progress.position,
        unit="step",
        disable=quiet(fabric),
        leave=False,
    )
    for batch in bar:
        progress.position, progress.logged = progress.position + 1, {}
        losses = train_step(job, state, batch)
        watch.add(losses, settings.batch_size, state.step, batch["case"])
        is_last = progress.position == state.steps
        logs = is_last or state.step % settings.log_every == 0
        if logs:
            report = watch.report()
            _log(job, state, report | {"train/learning_rate": state.schedule.learning_rate})
            bar.set_postfix_str(_postfix(report, progress, job.score))
            # The first process's clock decides for all, since saving gathers from every process. An epoch's last step
            # saves a run that has no last.ckpt yet: best.ckpt, which validation writes, is never there without it.
            elapsed = all_processes(fabric, time.monotonic() - state.saved_at)[0]
            if elapsed > 60 * settings.checkpoint_minutes or (is_last and not state.is_saved):
                save(job, state)
        # Processes must stop at the same step; asking each other at every step would slow them down.
        if not is_last and (logs or fabric.world_size == 1):
            progress.signal = _any_signal(fabric, interruption)
            if progress.signal is not None:
                progress.window = watch.checked()  # what is not finite must not be saved
                save(job, state)
                return


def remaining_batches(job: Job, state: State) -> Iterator[dict[str, Any]]:
    """The batches of this epoch that are still to be done."""
    fabric, settings, progress = job.fabric, job.settings, state.progress
    order = order_of(
        job.dataset, settings.batch_size, job.seed, fabric.global_rank, fabric.world_size, settings.accumulate
    )
    batches = order.epoch(progress.epoch)
    job.dataset.epoch = progress.epoch
    return state.loader(batches[progress.position :])


def train_step(job: Job, state: State, batch: dict[str, Any]) -> Tensor:
    """One step of the optimizer; returns the unweighted losses, in the order of the objective's weights."""
    settings, count = job.settings, job.settings.accumulate
    image, target = batch["image"].contiguous(memory_format=memory_format(settings)), batch["target"]
    objective, losses = job.objective, None
    try:
        answers = {} if job.known is None else _known(job, image, batch)
        with objective.knowing(answers):
            state.take.prepare(image, target)  # first: what does not fit beside a graph's memory shows at once
        if state.step == 0 or (settings.share_every and state.step % settings.share_every == 0):
            first = (part.tensor_split(count)[0] for part in (image, target))
            with objective.knowing({name: answer.tensor_split(count)[0] for name, answer in answers.items()}):
                shares = gradient_shares(job.fabric, objective, *first)
            _log(job, state, {f"gradient_share/{name}": share for name, share in shares.items()})
        with objective.knowing(answers):
            losses = state.take(image, target)
    except torch.OutOfMemoryError:
        pass  # only once this is left is the memory of the failed step free again
    if losses is None:
        raise no_memory(job.fabric, objective, image, target, settings)
    state.schedule.step()
    return losses


def _known(job: Job, image: Tensor, batch: dict[str, Any]) -> dict[str, Tensor]:
    with job.fabric.autocast():
        return job.known(image, batch)


def validate_epoch(job: Job, state: State) -> None:
    """Ends an epoch: validates where it is due, keeps the best, and saves."""
    settings, progress, step = job.settings, state.progress, state.step
    progress.epoch, progress.position = progress.epoch + 1, 0
    row: dict[str, Any] = {"epoch": progress.epoch, "loss": round(sum(progress.losses) / state.steps, 6)}
    progress.losses, progress.logged = [], {}
    if progress.epoch % settings.validate_every == 0 or progress.epoch == settings.epochs:
        network, is_first = job.objective.network, job.fabric.is_global_zero
        share_buffers(job.fabric, network)
        progress.scores, progress.cases = job.validate(network, step)
        job.tracker.scalars({f"val/{name}": value for name, value in progress.scores.items()}, step)
        value = progress.scores[job.score]
        state.schedule.validated(value)
        row |= {name: round(value, 6) for name, value in progress.scores.items()}
        if value > progress.best:
            progress.best, progress.best_epoch = value, progress.epoch
            if is_first:
                checkpoints.save(network_content(job.identity, network, progress), job.output / "best.ckpt")
        if is_first:
            tqdm.write(
                f"epoch {progress.epoch:>3}/{settings.epochs}  loss {row['loss']:.4f}  val {job.score} "
                f"{value:.4f}  best {progress.best:.4f} (epoch {progress.best_epoch})"
            )
    job.tracker.epoch(row)
    save(job, state)


def save(job: Job, state: State) -> None:
    """Writes last.ckpt. Its `step` is the first one whose scalars a resumed run writes again."""
    fabric, progress = job.fabric, state.progress
    random_states = all_processes(fabric, checkpoints.random_states())
    if fabric.is_global_zero:
        job.tracker.flush()
        training = training_content(progress, job.objective, state.optimizer, state.schedule) | {
            "random": random_states,
            "precision": fabric.strategy.precision.state_dict(),
            "step": progress.epoch * state.steps + progress.position - (progress.position == state.steps),
        }
        content = network_content(job.identity, job.objective.network, progress) | {"training": training}
        checkpoints.save(content, job.output / "last.ckpt")
    fabric.barrier()
    state.is_saved, state.saved_at = True, time.monotonic()


def _log(job: Job, state: State, scalars: dict[str, float]) -> None:
    job.tracker.scalars(scalars, state.step)
    state.progress.logged |= scalars


def _postfix(report: dict[str, float], progress: Progress, score: str) -> str:
    parts = [f"loss {report['train/loss']:.3f}", f"{report['train/images_per_second']:.0f} images/s"]
    if progress.scores:
        parts.insert(1, f"val {score} {progress.scores[score]:.3f}")
    return ", ".join(parts)


def _any_signal(fabric: Fabric, interruption: Interruption) -> int | None:
    signals = all_processes(fabric, interruption.signal)
    return next((int(signal) for signal in signals if signal), None)
