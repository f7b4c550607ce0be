"""The teacher of a distillation: what is checked of it and of the terms before the first step, and the objective."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from datasets import DATASETS
from utils.distillation.balance import balance
from utils.distillation.ensemble import Ensemble, teacher_weights
from utils.distillation.objective import Distiller, answers_in
from utils.distillation.teacher_cache import TeacherCache
from utils.distillation.terms import asks_teacher, read_terms
from utils.evaluation.agreement import TeachersLabels
from utils.evaluation.inference import predict
from utils.experiment.guards import check_scores, refuse_leak, refuse_other_content, refuse_other_input
from utils.experiment.neighbors import seen_by
from utils.experiment.prepare import Experiment
from utils.experiment.soft_check import check_soft_teacher
from utils.machine import memory_share
from utils.recipe.contracts import Samples
from utils.recipe.registry import build
from utils.recipe.schema import DistillationRecipe
from utils.tables import table
from utils.training import checkpoints
from utils.training.device import resolve_precision


def distilled(experiment: Experiment) -> Distiller:
    """The student's objective, once its teacher and its terms are known to be right.

    The order is: no leak, the same input, the same content of the cases, the recorded score repeated, every term tried
    once, and last the terms balanced against the task loss. Where all terms learn from the student itself there is no
    teacher.
    """
    recipe, fabric, train = experiment.recipe, experiment.fabric, experiment.train
    if not recipe.distillation:
        raise ValueError("distillation: no terms; give --loss_type METHOD (configs/methods) or a list of terms")
    terms = read_terms(recipe.distillation, num_classes=train.num_classes)
    if experiment.task is None and (reading := [name for name, term in terms.items() if term.reads_target]):
        raise ValueError(f"distillation: {', '.join(reading)} read the labels, and none is seen: leave these terms out")
    teacher = theirs = None
    if experiment.soft is not None:
        check_soft_teacher(experiment)
    elif asks_teacher(recipe.distillation):
        teacher, theirs = _checked_teachers(experiment)
    distiller = Distiller(
        experiment.network,
        experiment.task,
        teacher,
        terms,
        partly_labeled=train.labeled is not None,
        channels=input_channels(experiment.val.preprocessing),
        teacher_channels=theirs,
        known=None if experiment.soft is None else "logits",
    )
    fabric.to_device(distiller)
    batch = fabric.to_device(train.batch([0, len(train) // 2]))
    with distiller.knowing(answers_in(batch)):
        rows = trial(distiller, batch["image"], batch["target"].clamp(min=0))
    if recipe.distillation_share is not None:
        settings = (recipe.training, recipe.seed, recipe.distillation_share)
        experiment.scale_terms(balance(fabric, distiller, train, *settings))
    if fabric.is_global_zero:
        if teacher is None and experiment.soft is None:
            print("teacher: none, every term learns from the student itself")
        weights = [{"weight": f"{term.weight:g}"} for term in distiller.terms]
        print(f"\n{table([row | weight for row, weight in zip(rows, weights, strict=True)])}\n")
        if experiment.balance is not None:
            share, factor = experiment.balance["share"], experiment.balance["factor"]
            when = "when the run began" if experiment.resumed is not None else "after some steps on the task loss alone"
            print(
                f"weights of the terms times {factor:.4g}: so their gradient is {share:g} times that of the task loss, "
                f"measured {when}\n"
            )
    return distiller


def _checked_teachers(experiment: Experiment) -> tuple[nn.Module, int]:
    """The teacher on its device, or several as one, once each may teach, and the number of channels that it takes."""
    recipe, train = experiment.recipe, experiment.train
    if not recipe.networks_that_teach:
        raise ValueError("teacher: none given; train one with train.py and give its --teacher FOLDER/best.ckpt")
    weights = teacher_weights(recipe.teachers, train.class_names, train.num_classes) if recipe.teachers else None
    checked = {name: _checked_teacher(experiment, name, path) for name, path in recipe.networks_that_teach.items()}
    if weights is None:
        return checked[""]
    channels = [theirs for _, theirs in checked.values()]
    networks = {name: network for name, (network, _) in checked.items()}
    return experiment.fabric.to_device(Ensemble(networks, weights, channels)), max(channels)


def _checked_teacher(experiment: Experiment, name: str, path: str) -> tuple[nn.Module, int]:
    """A teacher on its device, once it may teach: no leak, the same input and cases, and its recorded score.

    Returns it with the number of channels that it takes.
    """
    recipe, fabric = experiment.recipe, experiment.fabric
    checkpoint = checkpoints.load(path)
    if not recipe.allow_leak:
        refuse_leak(checkpoint, experiment.split, path)
    refuse_other_input(checkpoint, experiment.train.preprocessing, path)
    refuse_other_content(checkpoint, experiment.data["cases"], path)
    teacher, val = fabric.to_device(checkpoints.rebuild(checkpoint)), _val_of(experiment, checkpoint["preprocessing"])
    if recipe.metric.get("against") == "teacher":
        experiment.targets = TeachersLabels(lambda batch: predict(fabric, teacher, batch["image"]), val)
    line = "teacher: the val cases have no labels, so its recorded score was not checked"
    if experiment.val.has_labels:
        line = check_scores(
            checkpoint["scores"]["cases"],
            lambda cases: experiment.score(teacher, cases, "score the teacher again", val, labels=True)[1],
            experiment.val.cases,
            experiment.metrics()[0],
            path,
        )
    if fabric.is_global_zero:
        print(f"{name}: {line}" if name else line, flush=True)
    return teacher, input_channels(checkpoint["preprocessing"])


def _val_of(experiment: Experiment, preprocessing: Mapping[str, Any]) -> Samples | None:
    """The val split as the teacher is given it, where that is another one than the student's."""
    if input_channels(preprocessing) == input_channels(experiment.val.preprocessing):
        return None
    data = seen_by(experiment.recipe.data, preprocessing)
    return build(DATASETS, data, "data", split="val", seed=experiment.recipe.seed)


def input_channels(preprocessing: Mapping[str, Any]) -> int:
    """The channels of a network's images; earlier versions did not record the one that slices had."""
    return preprocessing.get("in_channels", 1)


def cache_of(experiment: Experiment) -> TeacherCache | None:
    """The teacher's known answers, where the recipe keeps them.

    Raises ValueError where every step draws new images, so that no answer is reused.
    """
    recipe = experiment.recipe
    if not isinstance(recipe, DistillationRecipe) or not recipe.teacher_cache or not asks_teacher(recipe.distillation):
        return None
    if not experiment.train.views:
        drawn = {key: recipe.data[key] for key in ("augment", "crop_mode") if key in recipe.data}
        raise ValueError(
            f"teacher_cache: with {drawn} no image comes twice; use flips and quarter turns alone, and center crops"
        )
    settings, device = recipe.training, experiment.fabric.device.type
    how = (resolve_precision(settings.precision, device), device, f"channels_last {settings.channels_last}")
    weights = [f"{each['name']} {each.get('weight', 1)}" for each in recipe.teachers]
    identity = (str(experiment.teacher_sha256), *how, *weights)
    views, room = experiment.train.views * len(experiment.train), partial(memory_share, experiment.fabric.device)
    return TeacherCache(Path(recipe.teacher_cache), identity, recipe.teacher_cache_gb, views, room)


@torch.no_grad()
def trial(distiller: Distiller, image: Tensor, target: Tensor) -> list[dict[str, str]]:
    """Runs every term once: creates the projectors, and returns each term's shapes and value.

    The student's features are those of its first step: normalized by the batch, not by statistics that nobody has
    gathered yet. Its buffers and the random numbers are put back.

    image (B, C, H, W), target (B, 1, H, W) or (B,). Returns a row for each term, for `table`. Raises ValueError naming
    a term that cannot be computed.
    """
    was_training = distiller.training
    distiller.eval()
    buffers = {name: buffer.clone() for name, buffer in distiller.network.named_buffers()}
    with torch.random.fork_rng([image.device] if image.is_cuda else []):
        distiller.network.train()
        student, teacher = distiller.features(image)
    for name, buffer in distiller.network.named_buffers():
        buffer.copy_(buffers[name])
    rows = []
    for name, term in zip(distiller.names, distiller.terms, strict=True):
        try:
            value = term(student, teacher, target)
        except (ValueError, RuntimeError) as error:
            raise ValueError(f"the term {name} cannot be computed: {error}") from error
        rows.append(
            {
                "term": name,
                "student": _shapes(student, term.student_taps),
                "teacher": _shapes(teacher, term.teacher_taps),
                "projector": str(getattr(term.loss, "projector", "none")),
                "at start": f"{float(value):.4g}",
            }
        )
    distiller.train(was_training)
    return rows


def _shapes(features: dict[str, Tensor], names: list[str]) -> str:
    shapes = ["x".join(str(extent) for extent in features[name].shape[1:]) for name in names]
    return " + ".join(f"{name} {shape}" for name, shape in zip(names, shapes, strict=True))
