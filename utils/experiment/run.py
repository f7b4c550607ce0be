"""From a recipe to a finished run: what train.py and train_kd.py share."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric, seed_everything
from lightning_fabric.utilities.rank_zero import rank_zero_only
from torch import nn
from torch.utils.data import Dataset

from datasets import DATASETS
from datasets.files import alone_in, write_text
from datasets.fingerprints import fingerprint
from networks import NETWORKS
from utils.command import run_command
from utils.distillation.losses import TASK_LOSSES
from utils.distillation.terms import Task, read_terms, scaled
from utils.evaluation.complexity import complexity
from utils.evaluation.inference import evaluate, make_metrics
from utils.evaluation.metrics import METRICS
from utils.evaluation.pictures import draw, telling
from utils.experiment.resuming import refuse_other_data, start_or_resume
from utils.experiment.teacher import refuse_lonely, refuse_misfit, refuse_val_without
from utils.experiment.test import test
from utils.recipe import schema
from utils.recipe.registry import build, check
from utils.recipe.schema import Recipe
from utils.training import checkpoints
from utils.training.failures import explained
from utils.training.launch import finish, launch, resolve_precision
from utils.training.loop import fit
from utils.training.tracking import Tracker


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
    teacher_sha256: str | None
    balance: dict[str, float] | None

    @cached_property
    def data(self) -> dict[str, Any]:
        """What the cases of train and val hold, as a checkpoint carries it."""
        cases = {**self.train.digests, **self.val.digests}
        return {"fingerprint": fingerprint(cases, self.train.class_names), "cases": cases}

    def scale_terms(self, factor: float) -> None:
        """Records the factor that the terms' weights were multiplied by, and the recipe that runs with them."""
        self.balance = {"share": self.recipe.distillation_share, "factor": factor}
        terms = scaled(self.recipe.distillation, factor)
        self.recipe = replace(self.recipe, distillation=terms, distillation_share=None)

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
    recipe, resumed = start_or_resume(recipe)
    output = Path(recipe.output)
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
    refuse_lonely(network, train[0]["image"], recipe.training.batch_size // fabric.world_size, len(train))
    remark = refuse_val_without(make_metrics(recipe.metric, val.class_names)[0], val)
    teacher = checkpoints.file_of(recipe.teacher) if getattr(recipe, "teacher", "") else None
    experiment = Experiment(
        *(recipe, fabric, output, train, val, network, section, task, resumed),
        teacher_sha256=checkpoints.sha256(teacher) if teacher and teacher.is_file() else None,
        balance=None if resumed is None else resumed.get("balance"),
    )
    remarks = [remark]
    if resumed is not None:
        last = output / "last.ckpt"
        split, data, teacher_sha256 = experiment.split, experiment.data, experiment.teacher_sha256
        remarks.append(refuse_other_data(resumed, split, data, teacher_sha256, last))
    for line in filter(None, remarks):
        if fabric.is_global_zero:
            print(f"note: {line}", flush=True)
    return experiment


def run(experiment: Experiment, objective: nn.Module) -> int:
    """Trains, and returns the exit status: 0, or 128 + the signal that stopped it."""
    recipe, fabric, output = experiment.recipe, experiment.fabric, experiment.output
    if fabric.is_global_zero:
        schema.write(recipe, output, _remark(experiment.balance), write_text)
    fabric.barrier()
    start = 0 if experiment.resumed is None else experiment.resumed["epoch"]
    first_step = 0 if experiment.resumed is None else experiment.resumed["training"]["step"]
    tracker = Tracker(output, fabric.is_global_zero, first_step)
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
        "data": experiment.data,
        "recipe": schema.as_dict(recipe),
        "teacher_sha256": experiment.teacher_sha256,
        "balance": experiment.balance,
    }
    if fabric.is_global_zero:
        print(summary(experiment, start), flush=True)
    started = time.monotonic()
    with closing(tracker):
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
            other = "longer" if recipe.training.epochs > before else "shorter"
            going_on = f"{other} than its {before} epochs (its learning rate now follows that schedule), {going_on}"
    return "".join(f"note: {note}\n" for note in train.notes) + (
        f"{recipe.network['name']}: {size.parameters / 1e6:.2f} M parameters, "
        f"{size.macs / 1e9:.2f} GMACs at {side}x{side}\n"
        f"data: {len(train.cases)} cases, {len(train)} samples to train on; "
        f"{len(val.cases)} cases, {len(val)} samples in val; classes {', '.join(train.class_names)}\n"
        f"{going_on}: {recipe.training.epochs} epochs, {fabric.world_size} process(es) on {fabric.device.type}, "
        f"{resolve_precision(recipe.training.precision, fabric.device.type)}, seed {recipe.seed} -> {recipe.output}"
    )


def _remark(balance: dict[str, float] | None) -> str | None:
    """What a reader of config.yaml should know about the weights of its terms."""
    if balance is None:
        return None
    return (
        f"The weights of the terms were multiplied by {balance['factor']:.6g}: distillation_share {balance['share']:g}"
    )


def main(recipe: Recipe, objective: Callable[[Experiment], nn.Module]) -> int:
    """Runs a recipe's mode; whatever is wrong ends in one line on stderr and status 1."""
    interrupted = "interrupted; where last.ckpt is in the output folder, --resume goes on from it"
    return run_command("error", lambda: _run_modes(recipe, objective), interrupted, failed=1)


def _run_modes(recipe: Recipe, objective: Callable[[Experiment], nn.Module]) -> int:
    # Of several processes the first holds the folder and writes.
    with explained(recipe), alone_in(Path(recipe.output)) if rank_zero_only.rank == 0 else nullcontext():
        status = 0
        if recipe.mode in ("train", "both"):
            experiment = prepare(recipe)
            status = run(experiment, objective(experiment))
        if status == 0 and recipe.mode in ("test", "both"):
            status = test(recipe)
    finish()
    return status
