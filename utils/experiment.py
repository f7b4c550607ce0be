"""From a recipe to a finished run: what train.py and train_kd.py share."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric, seed_everything
from torch import nn
from torch.utils.data import Dataset, default_collate

from datasets import DATASETS
from datasets.transforms import unpad
from networks import NETWORKS
from utils import checkpoints, config
from utils.complexity import complexity
from utils.config import Recipe, build
from utils.guards import table
from utils.inference import evaluate, predict
from utils.losses import TASK_LOSSES
from utils.metrics import METRICS
from utils.optimization import resolve_precision
from utils.tracking import Tracker, draw_slice
from utils.training import fit

FREE_ON_RESUME = {"output", "mode", "resume", "allow_leak"}
FREE_TRAINING = {"epochs", "devices", "workers", "log_every", "share_every", "checkpoint_minutes", "pictures"}


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
    task_loss: nn.Module
    resumed: dict[str, Any] | None

    @property
    def split(self) -> dict[str, Any]:
        """The patients of each split and the split file's hash, as a checkpoint carries them."""
        patients = {name: list(self.train.split_patients(name)) for name in ("train", "val", "test")}
        return patients | {"sha256": self.train.split_sha256}

    def metrics(self) -> list[Any]:
        """Fresh metrics: the recipe's first, then the published protocol under its own name."""
        names = self.train.class_names
        return [
            build(METRICS, self.recipe.metric, "metric", class_names=names),
            METRICS["published"](class_names=names),
        ]

    def score(
        self, network: nn.Module, cases: list[str] | None = None, description: str = "validate"
    ) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """Scores whole val cases."""
        return score(self.fabric, network, self.val, self.metrics(), self.recipe, cases, description)


def score(
    fabric: Fabric,
    network: nn.Module,
    dataset: Dataset,
    metrics: list[Any],
    recipe: Recipe,
    cases: list[str] | None = None,
    description: str = "validate",
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    settings = recipe.training
    return evaluate(
        fabric,
        network,
        dataset,
        metrics,
        batch_size=settings.batch_size,
        workers=settings.workers,
        channels_last=settings.channels_last,
        cases=cases,
        description=description,
    )


def launch(recipe: Recipe) -> Fabric:
    """Fabric for one process, `training.devices` processes, or those that torchrun started."""
    settings = recipe.training
    devices = int(os.environ.get("LOCAL_WORLD_SIZE", settings.devices))
    nodes = int(os.environ.get("WORLD_SIZE", devices)) // devices
    fabric = Fabric(
        accelerator=settings.accelerator,
        devices=devices,
        num_nodes=nodes,
        precision=resolve_precision(settings.precision, settings.accelerator),
    )
    fabric.launch()
    return fabric


def prepare(recipe: Recipe) -> Experiment:
    """Builds data, network, task loss and metric. Raises ValueError for whatever is wrong, before any work."""
    fabric = launch(recipe)
    output = Path(recipe.output)
    resumed = _resumed(recipe, output)
    train = build(DATASETS, recipe.data, "data", split="train", seed=recipe.seed)
    val = build(DATASETS, recipe.data, "data", split="val", seed=recipe.seed)
    seed_everything(recipe.seed, verbose=False)
    given = {"in_channels": train.in_channels, "num_classes": train.num_classes}
    network = build(NETWORKS, recipe.network, "network", **given)
    # A checkpoint has its own weights: it needs no file of pretrained ones to be rebuilt.
    section = {key: value for key, value in ({**given, **recipe.network}).items() if key != "pretrained"}
    task_loss = build(TASK_LOSSES, recipe.task_loss, "task_loss")
    experiment = Experiment(recipe, fabric, output, train, val, network, section, task_loss, resumed)
    experiment.metrics()
    return experiment


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
    tracker = Tracker(output, fabric.is_global_zero)
    pictured = _pictured(experiment.val, recipe.training.pictures)

    def validate(network: nn.Module, step: int) -> tuple[dict[str, float], list[dict[str, Any]]]:
        scores, cases = experiment.score(network)
        if pictured and fabric.is_global_zero:
            tracker.picture("val/image, target, prediction, difference", _draw(experiment, network, pictured), step)
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
        result = fit(
            fabric,
            objective,
            experiment.train,
            validate,
            recipe.training,
            output,
            identity=identity,
            score=experiment.metrics()[0].selects,
            seed=recipe.seed,
            tracker=tracker,
            resumed=experiment.resumed,
        )
    finally:
        tracker.close()
    if not fabric.is_global_zero:
        return 0 if result["finished"] else 128 + result["signal"]
    if not result["finished"]:
        print(f"\nstopped by signal {result['signal']}; {output / 'last.ckpt'} is saved; continue with --resume")
        return 128 + result["signal"]
    minutes = (time.monotonic() - started) / 60
    print(
        f"\nbest val {experiment.metrics()[0].selects} {result['best']:.4f} at epoch {result['epoch']}, "
        f"{minutes:.1f} min\n  {output / 'best.ckpt'}\n  tensorboard --logdir {output}"
    )
    return 0


def summary(experiment: Experiment, start: int) -> str:
    """What is about to run, in a few lines."""
    recipe, train, val, fabric = experiment.recipe, experiment.train, experiment.val, experiment.fabric
    side = getattr(train[0]["image"], "shape", (0, 0, 0))[-1]
    size = complexity(experiment.network, train.in_channels, side)
    going_on = f"resumes after {start} epochs" if experiment.resumed is not None else "starts"
    return (
        f"{recipe.network['name']}: {size.parameters / 1e6:.2f} M parameters, {size.macs / 1e9:.2f} GMACs at {side}x{side}\n"
        f"data: {len(train.cases)} cases, {len(train)} slices to train on; {len(val.cases)} cases, {len(val)} slices in val; "
        f"classes {', '.join(train.class_names)}\n"
        f"{going_on}: {recipe.training.epochs} epochs, {fabric.world_size} process(es) on {fabric.device.type}, "
        f"{fabric._precision.precision}, seed {recipe.seed} -> {recipe.output}"
    )


def _pictured(dataset: Dataset, count: int) -> list[int]:
    """The slice with most foreground of each of the first `count` cases: the same ones every time."""
    pictured = []
    for indices in list(dataset.case_indices().values())[:count]:
        areas = [int((dataset[index]["target"] > 0).sum()) for index in indices]
        pictured.append(indices[int(np.argmax(areas))])
    return pictured


@torch.no_grad()
def _draw(experiment: Experiment, network: nn.Module, pictured: list[int]) -> np.ndarray:
    rows = []
    was_training = network.training
    network.eval()
    for index in pictured:
        sample = default_collate([experiment.val[index]])
        size = tuple(int(extent) for extent in sample["size"][0])
        logits = predict(experiment.fabric, network, sample["image"], experiment.recipe.training.channels_last)
        parts = (sample["image"][0, 0], sample["target"][0, 0], logits[0].argmax(0).cpu())
        rows.append(draw_slice(*(unpad(part, size).numpy() for part in parts)))
    network.train(was_training)
    width = max(row.shape[1] for row in rows)
    return np.concatenate([np.pad(row, ((0, 4), (0, width - row.shape[1]), (0, 0))) for row in rows])


def test(recipe: Recipe) -> int:
    """Scores best.ckpt on the test split, once: a second call shows what the first one wrote to OUTPUT/test.json."""
    output = Path(recipe.output)
    file = output / "test.json"
    best = output / "best.ckpt"
    checkpoint = checkpoints.load(best)
    digest = checkpoints.sha256(best)
    known = json.loads(file.read_text()) if file.is_file() else None
    if known is None or known["checkpoint_sha256"] != digest:
        fabric = launch(recipe)
        data = checkpoint["recipe"]["data"] | {"root": recipe.data.get("root", checkpoint["recipe"]["data"]["root"])}
        dataset = build(DATASETS, data, "data", split="test", seed=recipe.seed)
        seen = sorted((set(checkpoint["split"]["train"]) | set(checkpoint["split"]["val"])) & set(dataset.patients))
        if seen:
            raise ValueError(
                f"{best}: was trained or selected on test patients {', '.join(seen[:5])}; nothing was scored"
            )
        network = fabric.to_device(checkpoints.rebuild(checkpoint))
        if recipe.training.channels_last:
            network = network.to(memory_format=torch.channels_last)
        names = dataset.class_names
        metrics = [build(METRICS, recipe.metric, "metric", class_names=names), METRICS["published"](class_names=names)]
        scores, rows = score(fabric, network, dataset, metrics, recipe, description="test")
        known = {
            "checkpoint": str(best),
            "checkpoint_sha256": digest,
            "split_sha256": checkpoint["split"]["sha256"],
            "cases": len(dataset.cases),
            "empty_mask_rule": metrics[0].empty_mask_rule,
            "scores": scores,
            "rows": rows,
        }
        if not fabric.is_global_zero:
            return 0
        temporary = file.with_suffix(".tmp")
        temporary.write_text(json.dumps(known, indent=1))
        temporary.replace(file)
    print(f"test: {known['cases']} cases, {best}\n{known['empty_mask_rule']}")
    print(table([{"score": name, "value": f"{value:.4f}"} for name, value in known["scores"].items()]))
    print(f"every case: {file}")
    return 0


def main(recipe: Recipe, objective: Callable[[Experiment], nn.Module]) -> int:
    """Runs a recipe's mode; a wrong value ends in one line on stderr and status 1."""
    try:
        status = 0
        if recipe.mode in ("train", "both"):
            experiment = prepare(recipe)
            status = run(experiment, objective(experiment))
        if status == 0 and recipe.mode in ("test", "both"):
            status = test(recipe)
        return status
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
