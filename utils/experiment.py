"""From a recipe to a finished run: what train.py and train_kd.py share."""

from __future__ import annotations

import inspect
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric, seed_everything
from torch import nn
from torch.utils.data import Dataset

from datasets import DATASETS
from networks import NETWORKS
from utils import checkpoints, config
from utils.complexity import complexity
from utils.config import Recipe, build, check
from utils.guards import refuse_misfit
from utils.held_out import test
from utils.inference import evaluate, make_metrics
from utils.launch import finish, launch, resolve_precision
from utils.losses import TASK_LOSSES
from utils.metrics import METRICS
from utils.pictures import draw, telling
from utils.terms import Task, read_terms
from utils.tracking import Tracker
from utils.training import fit

FREE_ON_RESUME = {"output", "mode", "resume", "allow_leak", "teacher_cache", "teacher_cache_gb"}
FREE_TRAINING = {"epochs", "workers", "log_every", "share_every", "checkpoint_minutes", "pictures"}


@dataclass
class Experiment:
    """Everything a run needs, built and checked before its first step."""

    recipe: Recipe
    fabric: Fabric
    output: Path
    train: Dataset
    val: Dataset
    network: nn.Module
    network_section: dict[str, Any]
    task: Task
    resumed: dict[str, Any] | None

    @property
    def split(self) -> dict[str, Any]:
        """The patients of each split and the split file's hash, as a checkpoint carries them."""
        patients = {name: list(self.train.split_patients(name)) for name in ("train", "val", "test")}
        return patients | {"sha256": self.train.split_sha256}

    def metrics(self) -> list[Any]:
        """Fresh metrics of the recipe."""
        return make_metrics(self.recipe.metric, self.train.class_names)

    def score(
        self, network: nn.Module, cases: list[str] | None = None, description: str = "validate"
    ) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """Scores whole val cases."""
        settings = self.recipe.training
        return evaluate(
            self.fabric,
            network,
            self.val,
            self.metrics(),
            batch_size=settings.batch_size,
            workers=settings.workers,
            channels_last=settings.channels_last,
            cases=cases,
            description=description,
        )


def prepare(recipe: Recipe) -> Experiment:
    """Builds data, network, task loss and metric. Raises ValueError for whatever is wrong, before any work."""
    task_section = dict(recipe.task_loss)
    on = task_section.pop("on", "logits")
    check(TASK_LOSSES, task_section, "task_loss")
    check(NETWORKS, recipe.network, "network")
    check(METRICS, recipe.metric, "metric")
    read_terms(getattr(recipe, "distillation", []))
    output = Path(recipe.output)
    resumed = _resumed(recipe, output)
    fabric = launch(recipe.training)
    if recipe.training.batch_size % fabric.world_size:
        raise ValueError(
            f"training.batch_size {recipe.training.batch_size} is not a multiple of the {fabric.world_size} processes"
        )
    train = build(DATASETS, recipe.data, "data", split="train", seed=recipe.seed)
    val = build(DATASETS, recipe.data, "data", split="val", seed=recipe.seed)
    seed_everything(recipe.seed, verbose=False)
    image = train[0]["image"]
    given = {"in_channels": len(image), "num_classes": train.num_classes, "image_size": image.shape[-1]}
    network = build(NETWORKS, recipe.network, "network", **given)
    accepted = inspect.signature(NETWORKS[recipe.network["name"]]).parameters
    # A checkpoint has its own weights: it needs no pretrained ones to be rebuilt.
    section = {key: value for key, value in given.items() if key in accepted} | {
        key: value for key, value in recipe.network.items() if key not in ("pretrained", "checkpoint")
    }
    task = Task(build(TASK_LOSSES, task_section, "task_loss", class_counts=train.class_counts), on, recipe.task_weight)
    refuse_misfit(network, task, make_metrics(recipe.metric, train.class_names)[0], train[0])
    if val.one_size:
        _refuse_val_without(make_metrics(recipe.metric, val.class_names)[0], val)
    return Experiment(recipe, fabric, output, train, val, network, section, task, resumed)


def _refuse_val_without(metric: Any, val: Dataset) -> None:
    """Raises ValueError when val lacks the classes that the selecting score is taken over."""
    metric.update(torch.zeros(len(val), val.num_classes), torch.tensor(val.labels), val.cases)
    if metric.selects not in metric.compute():
        counts = ", ".join(f"{count} {name}" for count, name in zip(val.class_counts, val.class_names, strict=True))
        raise ValueError(
            f"metric: {metric.selects} cannot be taken over val, which holds {counts}; set metric.select to accuracy, "
            "or give val more images (another split_seed, val_fraction or ratios)"
        )


def _resumed(recipe: Recipe, output: Path) -> dict[str, Any] | None:
    last = output / "last.ckpt"
    if not recipe.resume:
        if last.exists():
            raise ValueError(f"{output} already holds a run; --resume continues it, --output FOLDER starts another")
        return None
    if not last.exists():
        return None
    resumed = checkpoints.load(last)
    if "training" not in resumed:
        raise ValueError(
            f"{last}: holds weights only, there is nothing to resume; give the folder of an unfinished run"
        )
    then, now = resumed["recipe"], config.as_dict(recipe)
    changed = [key for key in now if key not in FREE_ON_RESUME | {"training"} and then.get(key) != now[key]]
    settings = then["training"]
    changed += [
        f"training.{key}"
        for key, value in now["training"].items()
        if key not in FREE_TRAINING and settings.get(key) != value
    ]
    if changed:
        raise ValueError(f"{last}: cannot be resumed with another {', '.join(changed)}; start a new --output instead")
    return resumed


def run(experiment: Experiment, objective: nn.Module) -> int:
    """Trains, and returns the exit status: 0, or 128 + the signal that stopped it."""
    recipe, fabric, output = experiment.recipe, experiment.fabric, experiment.output
    if fabric.is_global_zero:
        output.mkdir(parents=True, exist_ok=True)
        config.write(recipe, output)
    fabric.barrier()
    start = 0 if experiment.resumed is None else experiment.resumed["epoch"]
    purge = None if experiment.resumed is None else experiment.resumed["training"]["step"]
    tracker = Tracker(output, fabric.is_global_zero, purge)
    pictured = telling(experiment.val, recipe.training.pictures)
    teacher = getattr(objective, "teacher", None)
    selects = experiment.metrics()[0].selects

    def validate(network: nn.Module, step: int) -> tuple[dict[str, float], list[dict[str, Any]]]:
        scores, cases = experiment.score(network)
        if selects not in scores:
            raise ValueError(f"metric {recipe.metric['name']}: val has no case to take {selects} over; choose another")
        if pictured and fabric.is_global_zero:
            pictures = draw(fabric, network, teacher, experiment.val, pictured, cases, recipe.training.channels_last)
            for name, picture in pictures.items():
                tracker.picture(f"val/{name}", picture, step)
        return scores, cases

    identity = {
        "network": experiment.network_section,
        "preprocessing": experiment.train.preprocessing,
        "split": experiment.split,
        "recipe": config.as_dict(recipe),
    }
    if fabric.is_global_zero:
        print(summary(experiment, start), flush=True)
    started = time.monotonic()
    try:
        progress = fit(
            fabric,
            objective,
            experiment.train,
            validate,
            recipe.training,
            output,
            identity=identity,
            score=selects,
            seed=recipe.seed,
            tracker=tracker,
            resumed=experiment.resumed,
        )
    finally:
        tracker.close()
    if fabric.is_global_zero and (cache := getattr(objective, "cache", None)):
        print(f"\n{cache.summary()}")
    status = 0 if progress.signal is None else 128 + progress.signal
    if fabric.is_global_zero and status:
        print(f"\nstopped by signal {progress.signal}; {output / 'last.ckpt'} is saved; continue with --resume")
    elif fabric.is_global_zero:
        print(
            f"\nbest val {selects} {progress.best:.4f} at epoch {progress.best_epoch}, "
            f"{(time.monotonic() - started) / 60:.1f} min\n  {output / 'best.ckpt'}\n  tensorboard --logdir {output}"
        )
    return status


def summary(experiment: Experiment, start: int) -> str:
    """What is about to run, in a few lines."""
    recipe, train, val, fabric = experiment.recipe, experiment.train, experiment.val, experiment.fabric
    side = train[0]["image"].shape[-1]
    size = complexity(experiment.network, train.in_channels, side)
    going_on = f"resumes after {start} epochs" if experiment.resumed is not None else "starts"
    if experiment.resumed is not None:
        before = experiment.resumed["recipe"]["training"]["epochs"]
        if before != recipe.training.epochs:
            going_on = (
                f"lengthened from {before} epochs (its learning rate now follows the longer schedule), {going_on}"
            )
    return "".join(f"note: {note}\n" for note in train.notes) + (
        f"{recipe.network['name']}: {size.parameters / 1e6:.2f} M parameters, "
        f"{size.macs / 1e9:.2f} GMACs at {side}x{side}\n"
        f"data: {len(train.cases)} cases, {len(train)} samples to train on; "
        f"{len(val.cases)} cases, {len(val)} samples in val; classes {', '.join(train.class_names)}\n"
        f"{going_on}: {recipe.training.epochs} epochs, {fabric.world_size} process(es) on {fabric.device.type}, "
        f"{resolve_precision(recipe.training.precision, fabric.device.type)}, seed {recipe.seed} -> {recipe.output}"
    )


def main(recipe: Recipe, objective: Callable[[Experiment], nn.Module]) -> int:
    """Runs a recipe's mode; a wrong value ends in one line on stderr and status 1."""
    try:
        status = 0
        if recipe.mode in ("train", "both"):
            experiment = prepare(recipe)
            status = run(experiment, objective(experiment))
        if status == 0 and recipe.mode in ("test", "both"):
            status = test(recipe)
        finish()
        return status
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
