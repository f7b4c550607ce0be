"""From a recipe to a finished run: preparation, training, the test split."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sized
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

from lightning_fabric.utilities.rank_zero import rank_zero_only
from torch import Tensor, nn

from datasets.files import alone_in, write_text
from datasets.slices.neighbors import middle
from datasets.slices.resampling import asked_words
from utils.command import run_command
from utils.distillation.objective import Distiller, answers_in
from utils.evaluation.complexity import complexity
from utils.evaluation.pictures import draw, representative
from utils.experiment.prepare import Experiment, prepare
from utils.experiment.teacher import cache_of, distilled
from utils.experiment.test import test
from utils.recipe import schema
from utils.recipe.schema import DistillationRecipe, Recipe
from utils.training.device import resolve_precision
from utils.training.failures import explained
from utils.training.launch import finish
from utils.training.loop import Job, fit
from utils.training.step import obstacle
from utils.training.tracking import Tracker


def main(recipe: Recipe) -> int:
    """Runs a recipe's mode; whatever is wrong ends in one line on stderr and status 1."""
    interrupted = "interrupted; where last.ckpt is in the output folder, --resume goes on from it"
    return run_command("error", lambda: _run_modes(recipe), interrupted, failed=1)


def _run_modes(recipe: Recipe) -> int:
    # Of several processes the first holds the folder and writes.
    with explained(recipe), alone_in(Path(recipe.output)) if rank_zero_only.rank == 0 else nullcontext():
        status = 0
        if recipe.mode in ("train", "both"):
            experiment = prepare(recipe)
            status = train(experiment, objective_of(experiment))
        if status == 0 and recipe.mode in ("test", "both"):
            status = test(recipe)
    finish()
    return status


def objective_of(experiment: Experiment) -> Distiller:
    """What the recipe minimizes: its task loss, and the terms of a distillation."""
    if isinstance(experiment.recipe, DistillationRecipe):
        return distilled(experiment)
    return Distiller(experiment.network, experiment.task, partly_labeled=experiment.train.labeled is not None)


def train(experiment: Experiment, objective: Distiller) -> int:
    """Trains, and returns the exit status: 0, or 128 + the signal that stopped it."""
    recipe, fabric, output, resumed = experiment.recipe, experiment.fabric, experiment.output, experiment.resumed
    cache = cache_of(experiment)
    if fabric.is_global_zero:
        schema.write(recipe, output, _remark(experiment), write_text)
    fabric.barrier()
    tracker = Tracker(output, fabric.is_global_zero, resumed["training"]["step"] if resumed is not None else 0)
    pictured = representative(experiment.val, recipe.training.pictures)
    selects = experiment.metrics()[0].selects

    def known(image: Tensor, batch: dict[str, Any]) -> dict[str, Tensor]:
        if cache is None:
            return answers_in(batch)
        seen = middle(image, objective.teacher_channels)
        return cache(seen, objective.teacher_taps, objective.ask, batch.get("view"))

    def validate(network: nn.Module, step: int) -> tuple[dict[str, float], list[dict[str, Any]]]:
        scores, cases = experiment.score(network)
        if selects not in scores:
            raise ValueError(f"metric {recipe.metric['name']}: val has no case to take {selects} over; choose another")
        if pictured and fabric.is_global_zero:
            channels_last = recipe.training.channels_last
            how = (channels_last, experiment.targets)
            pictures = draw(fabric, network, objective.teacher, experiment.val, pictured, cases, *how)
            for name, picture in pictures.items():
                tracker.picture(f"val/{name}", picture, step)
        return scores, cases

    reason = obstacle(fabric, recipe.training)
    if reason and fabric.is_global_zero and fabric.device.type == "cuda":
        print(f"note: a step is not captured as a CUDA graph: {reason}", flush=True)
    job = Job(
        fabric=fabric,
        objective=objective,
        dataset=experiment.train,
        settings=recipe.training,
        seed=recipe.seed,
        validate=validate,
        score=selects,
        output=output,
        identity=experiment.identity,
        tracker=tracker,
        known=known,
    )
    if fabric.is_global_zero:
        print(summary(experiment), flush=True)
    started = time.monotonic()
    with closing(tracker):
        progress = fit(job, resumed)
    if fabric.is_global_zero:
        if cache is not None:
            print(f"\n{cache.summary()}")
        if progress.signal is not None:
            print(f"\nstopped by signal {progress.signal}; {output / 'last.ckpt'} is saved; continue with --resume")
        else:
            minutes = (time.monotonic() - started) / 60
            print(
                f"\nbest val {selects} {progress.best:.4f} at epoch {progress.best_epoch}, {minutes:.1f} min\n"
                f"  {output / 'best.ckpt'}\n  tensorboard --logdir {output}"
            )
    return 0 if progress.signal is None else 128 + progress.signal


def summary(experiment: Experiment) -> str:
    """What is about to run, in a few lines."""
    recipe, train, val, fabric = experiment.recipe, experiment.train, experiment.val, experiment.fabric
    side = train[0]["image"].shape[-1]
    size = complexity(experiment.network, val.in_channels, side)
    going_on = "starts"
    if experiment.resumed is not None:
        going_on = f"resumes after {experiment.resumed['epoch']} epochs"
        before = experiment.resumed["recipe"]["training"]["epochs"]
        if before != recipe.training.epochs:
            other = "longer" if recipe.training.epochs > before else "shorter"
            going_on = f"{other} than its {before} epochs (its learning rate now follows that schedule), {going_on}"
    unseen = "labels: none is seen; a teacher's answers are learned, and its agreement chooses the best epoch\n"
    return "".join(f"note: {note}\n" for note in train.notes) + (
        f"{recipe.network['name']}: {size.parameters / 1e6:.2f} M parameters, "
        f"{size.macs / 1e9:.2f} GMACs at {side}x{side}\n"
        f"data: train {_count(train.cases, 'case')}, {_count(train, 'sample')}; "
        f"val {_count(val.cases, 'case')}, {_count(val, 'sample')}; classes {', '.join(train.class_names)}\n"
        f"{unseen if experiment.task is None else ''}"
        f"{_grids(train.preprocessing)}{going_on}: {_count(range(recipe.training.epochs), 'epoch')}, "
        f"{_count(range(fabric.world_size), 'process', 'es')} on {fabric.device.type}, "
        f"{resolve_precision(recipe.training.precision, fabric.device.type)}, seed {recipe.seed} -> {recipe.output}"
    )


def _grids(preprocessing: Mapping[str, Any]) -> str:
    """A line about resampled slices, since val and test are scored on two grids; empty where there are none."""
    words = asked_words(preprocessing)
    return f"spacing: {words}; val is scored on this grid, test on the grids of the sources\n" if words else ""


def _count(things: Sized, name: str, plural: str = "s") -> str:
    """How many things there are: 1 case, 2 cases."""
    return f"{len(things)} {name}{plural if len(things) != 1 else ''}"


def _remark(experiment: Experiment) -> str | None:
    """What a reader of config.yaml should know about the weights of its terms, and about soft maps."""
    remarks, balance = [], experiment.balance
    if balance is not None:
        how = f"{balance['factor']:.6g}: distillation_share {balance['share']:g}"
        remarks.append(f"The weights of the terms were multiplied by {how}")
    if experiment.soft is not None:
        of = "training cases" if experiment.targets is None else "training and val cases"
        remarks.append(f"The soft maps of the {of}: SHA-256 {experiment.teacher_sha256}")
    return "\n# ".join(remarks) or None
