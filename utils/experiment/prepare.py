"""Everything a run needs, built and checked before its first step."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric, seed_everything
from torch import nn

from datasets import DATASETS
from datasets.fingerprints import fingerprint
from datasets.slices.neighbors import middle
from datasets.slices.taught import SoftTeacher
from networks import NETWORKS
from utils.distillation.losses import TASK_LOSSES
from utils.distillation.terms import Task, asks_teacher, read_terms, scaled
from utils.evaluation.inference import Targets, evaluate, make_metrics
from utils.evaluation.metrics import METRICS
from utils.experiment.checks import refuse_lonely, refuse_misfit, refuse_val_without
from utils.experiment.labels import against, without_labels
from utils.experiment.neighbors import seen_by_both
from utils.experiment.resuming import refuse_other_data, start_or_resume
from utils.experiment.soft_teacher import soft_teacher
from utils.recipe import schema
from utils.recipe.contracts import Metric, Samples
from utils.recipe.registry import build, check
from utils.recipe.schema import DistillationRecipe, Recipe
from utils.training import checkpoints
from utils.training.launch import launch
from utils.training.loading import Loader
from utils.training.order import order_of


@dataclass(kw_only=True)
class Experiment:
    """A recipe with the objects that it names.

    Args:
        train: Its images have more channels than those of `val`, which the network takes, where a teacher takes more.
        network_section: The section of a checkpoint that builds the network again.
        resumed: The content of last.ckpt to go on from.
        teacher_sha256: The hash of the teacher's file, of several, or of the soft maps of the training cases,
            and of those of val where they select.
        soft: The soft maps that teach, if any do.
        balance: The `distillation_share` and the factor that the terms' weights were multiplied by for it.
        targets: What makes the targets of val where they are a teacher's answers; see `evaluate`.
    """

    recipe: Recipe
    fabric: Fabric
    train: Samples
    val: Samples
    network: nn.Module
    network_section: dict[str, Any]
    task: Task | None
    resumed: dict[str, Any] | None
    teacher_sha256: str | None
    soft: SoftTeacher | None
    balance: dict[str, float] | None
    targets: Targets | None = None

    @property
    def output(self) -> Path:
        return Path(self.recipe.output)

    @cached_property
    def data(self) -> dict[str, Any]:
        """What the cases of train and val hold, as a checkpoint carries it."""
        cases = {**self.train.digests, **self.val.digests}
        return {"fingerprint": fingerprint(cases, self.train.class_names), "cases": cases}

    @cached_property
    def val_loader(self) -> Loader:
        """Loads every validation: its processes live as long as the run."""
        return Loader(self.val, self.fabric.device, self.recipe.training.workers)

    @property
    def split(self) -> dict[str, Any]:
        """The patients of each split and the split file's hash, as a checkpoint carries them."""
        patients = {name: list(self.train.split_patients(name)) for name in ("train", "val", "test")}
        return patients | {"sha256": self.train.split_sha256}

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint holds beside weights, scores and progress."""
        return {
            "network": self.network_section,
            "preprocessing": self.val.preprocessing,
            "split": self.split,
            "data": self.data,
            "recipe": schema.as_dict(self.recipe),
            "teacher_sha256": self.teacher_sha256,
            "balance": self.balance,
        }

    def scale_terms(self, factor: float) -> None:
        """Records the factor that the terms' weights were multiplied by, and the recipe that runs with them."""
        self.balance = {"share": self.recipe.distillation_share, "factor": factor}
        terms = scaled(self.recipe.distillation, factor)
        self.recipe = replace(self.recipe, distillation=terms, distillation_share=None)

    def metrics(self) -> list[Metric]:
        """Fresh metrics of the recipe."""
        return make_metrics(self.recipe.metric, self.train.class_names)

    def score(
        self,
        network: nn.Module,
        cases: list[str] | None = None,
        description: str = "validate",
        val: Samples | None = None,
        labels: bool = False,
    ) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """Scores whole val cases; `val` is for a network that is given other images than the student.

        labels: Against the labels, whatever the student is selected by.
        """
        settings = self.recipe.training
        return evaluate(
            self.fabric,
            network,
            val or self.val,
            make_metrics(against(self.recipe.metric, "labels"), self.train.class_names) if labels else self.metrics(),
            batch_size=settings.batch_size // settings.accumulate,
            targets=None if labels else self.targets,
            loader=None if val else self.val_loader,
            channels_last=settings.channels_last,
            cases=cases,
            description=description,
        )


def prepare(recipe: Recipe) -> Experiment:
    """Builds data, network, task loss and metric. Raises ValueError for whatever is wrong, before any work."""
    task_section = dict(recipe.task_loss or {})
    on = task_section.pop("on", "logits")
    if recipe.task_loss is not None:
        check(TASK_LOSSES, task_section, "task_loss")
    check(NETWORKS, recipe.network, "network")
    check(METRICS, recipe.metric, "metric")
    soft, teachers = None, []
    if isinstance(recipe, DistillationRecipe):
        terms = read_terms(recipe.distillation, num_classes=2)  # of data that is not read yet; any number will do
        soft = soft_teacher(recipe, terms)
        teachers = [checkpoints.file_of(path) for path in recipe.networks_that_teach.values()]
    recipe, resumed = start_or_resume(without_labels(recipe))
    fabric = launch(recipe.training)
    settings = recipe.training
    check(DATASETS, recipe.data, "data")
    train = build(DATASETS, _training_data(recipe), "data", split="train", seed=recipe.seed, maps=soft)
    val = build(DATASETS, recipe.data, "data", split="val", seed=recipe.seed)
    # refuses a batch that cannot be shared out
    order_of(train, settings.batch_size, recipe.seed, world=fabric.world_size, parts=settings.accumulate)
    seed_everything(recipe.seed, verbose=False)
    sample = train[0]
    sample["image"] = image = middle(sample["image"], val.in_channels)
    given = {"in_channels": val.in_channels, "num_classes": train.num_classes, "image_size": image.shape[-1]}
    network = build(NETWORKS, recipe.network, "network", **given)
    task = None
    if recipe.task_loss is not None:
        loss = build(TASK_LOSSES, task_section, "task_loss", class_counts=train.class_counts)
        task = Task(loss, on, recipe.task_weight)
    refuse_misfit(network, task, make_metrics(recipe.metric, train.class_names)[0], sample)
    together = settings.batch_size // settings.accumulate // (1 if settings.sync_batchnorm else fabric.world_size)
    refuse_lonely(network, image, together, len(train))
    selects = recipe.metric.get("against") == "teacher"
    notes = [refuse_val_without(make_metrics(recipe.metric, val.class_names)[0], val) if val.has_labels else None]
    experiment = Experiment(
        recipe=recipe,
        fabric=fabric,
        train=train,
        val=val,
        network=network,
        network_section=_rebuilding(recipe.network, given),
        task=task,
        resumed=resumed,
        teacher_sha256=_taught_by(teachers, soft, [*train.cases, *(val.cases if selects else ())]),
        soft=soft,
        balance=None if resumed is None else resumed.get("balance"),
    )
    if resumed is not None:
        last = experiment.output / "last.ckpt"
        notes.append(refuse_other_data(resumed, experiment.split, experiment.data, experiment.teacher_sha256, last))
    for note in filter(None, notes):
        if fabric.is_global_zero:
            print(f"note: {note}", flush=True)
    return experiment


def _training_data(recipe: Recipe) -> dict[str, Any]:
    """The data section of the train split: with the neighbors of a teacher that has more than the student."""
    data = recipe.data
    if not isinstance(recipe, DistillationRecipe) or not asks_teacher(recipe.distillation):
        return data
    for path in recipe.networks_that_teach.values():
        if checkpoints.file_of(path).is_file():  # what is wrong is said once more is known
            data = seen_by_both(data, checkpoints.load(path)["preprocessing"])
    return data


def _taught_by(teachers: Sequence[Path], soft: SoftTeacher | None, cases: Sequence[str]) -> str | None:
    """The hash of what teaches: a file, several, or the soft maps of these cases."""
    if soft is not None:
        return soft.sha256(cases)
    if not teachers or not all(file.is_file() for file in teachers):
        return None
    hashes = [checkpoints.sha256(file) for file in teachers]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def _rebuilding(section: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """The section that rebuilds a network: with all that it was given, without the weights that it started from."""
    accepted = inspect.signature(NETWORKS[section["name"]]).parameters
    own = {key: value for key, value in section.items() if key not in ("pretrained", "checkpoint")}
    return {key: value for key, value in given.items() if key in accepted} | own
