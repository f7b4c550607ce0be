"""The teacher of a distillation: what is checked of it and of the terms before the first step, and the objective."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from datasets import DATASETS
from datasets.findings import listed
from utils.distillation.balance import balance
from utils.distillation.objective import Distiller
from utils.distillation.teacher_cache import TeacherCache
from utils.distillation.terms import asks_teacher, read_terms
from utils.evaluation.kind import SLICES, kind_of
from utils.experiment.neighbors import seen_by
from utils.experiment.prepare import Experiment
from utils.experiment.resuming import changed_cases
from utils.machine import memory_share
from utils.recipe.contracts import Metric, Samples
from utils.recipe.registry import build
from utils.recipe.schema import DistillationRecipe
from utils.tables import table
from utils.training import checkpoints
from utils.training.device import resolve_precision

SAME_INPUT = ("modality", "spacing", "slice_spacing", "window", "task", "class_names")
SAME_INPUT += ("image_size", "in_channels", "mean", "std")
TOLERANCE = 0.05  # Dice or probability: room for another precision or device, not for other weights or slices


def distilled(experiment: Experiment) -> Distiller:
    """The student's objective, once its teacher and its terms are known to be right.

    The order is: no leak, the same input, the same content of the cases, the recorded score repeated, every term tried
    once, and last the terms balanced against the task loss. Where all terms learn from the student itself there is no
    teacher.
    """
    recipe, fabric, train = experiment.recipe, experiment.fabric, experiment.train
    if not recipe.distillation:
        raise ValueError("distillation: no terms; give --loss_type METHOD (configs/methods) or a list of terms")
    teacher = theirs = None
    if asks_teacher(recipe.distillation):
        teacher, theirs = _checked_teacher(experiment)
    distiller = Distiller(
        experiment.network,
        experiment.task,
        teacher,
        read_terms(recipe.distillation, num_classes=train.num_classes),
        partly_labeled=bool(train.unlabeled),
        channels=input_channels(experiment.val.preprocessing),
        teacher_channels=theirs,
    )
    fabric.to_device(distiller)
    batch = fabric.to_device(train.batch([0, len(train) // 2]))
    rows = trial(distiller, batch["image"], batch["target"].clamp(min=0))
    if recipe.distillation_share is not None:
        settings = (recipe.training, recipe.seed, recipe.distillation_share)
        experiment.scale_terms(balance(fabric, distiller, train, *settings))
    if fabric.is_global_zero:
        if teacher is None:
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


def _checked_teacher(experiment: Experiment) -> tuple[nn.Module, int]:
    """The teacher on its device, once it may teach: no leak, the same input and cases, and its recorded score.

    Returns it with the number of channels that it takes.
    """
    recipe, fabric = experiment.recipe, experiment.fabric
    if not recipe.teacher:
        raise ValueError("teacher: none given; train one with train.py and give its --teacher FOLDER/best.ckpt")
    checkpoint = checkpoints.load(recipe.teacher)
    if not recipe.allow_leak:
        refuse_leak(checkpoint, experiment.split, recipe.teacher)
    refuse_other_input(checkpoint, experiment.val.preprocessing, recipe.teacher)
    refuse_other_content(checkpoint, experiment.data["cases"], recipe.teacher)
    teacher, val = fabric.to_device(checkpoints.rebuild(checkpoint)), _val_of(experiment, checkpoint["preprocessing"])
    line = check_scores(
        checkpoint["scores"]["cases"],
        lambda cases: experiment.score(teacher, cases, "score the teacher again", val)[1],
        experiment.val.cases,
        experiment.metrics()[0],
        recipe.teacher,
    )
    if fabric.is_global_zero:
        print(line, flush=True)
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
    identity = (str(experiment.teacher_sha256), *how)
    views, room = experiment.train.views * len(experiment.train), partial(memory_share, experiment.fabric.device)
    return TeacherCache(Path(recipe.teacher_cache), identity, recipe.teacher_cache_gb, views, room)


def refuse_leak(teacher: dict[str, Any], split: dict[str, Any], path: str) -> None:
    """Raises ValueError when the teacher was trained on the student's val or test patients, or selected on its test."""
    theirs = teacher["split"]
    try:
        checkpoints.patients_of(theirs, path)
    except ValueError as error:
        raise ValueError(f"{error}, or give --allow_leak to go on without knowing of a leak") from None
    for seen, held_out in (("train", "val"), ("train", "test"), ("val", "test")):
        shared = sorted(set(theirs[seen]) & set(split[held_out]))
        if shared:
            raise ValueError(
                f"{path}: the teacher's {seen} patients include {len(shared)} of the student's {held_out} patients "
                f"({listed(shared)}); use the same split file for both, or --allow_leak to go on"
            )


def refuse_other_input(teacher: dict[str, Any], preprocessing: dict[str, Any], path: str) -> None:
    """Raises ValueError when the teacher was trained on other images or classes than the student will see.

    It may look at other numbers of neighboring slices, but not at other distances between them.
    """
    has_neighbors = [bool(each.get("neighbors")) for each in (teacher["preprocessing"], preprocessing)]
    keys = [key for key in SAME_INPUT if key != "in_channels" or kind_of(preprocessing) is not SLICES]
    for key in keys + ["neighbor_mm"] * all(has_neighbors):
        theirs, ours = (_plain(each.get(key)) for each in (teacher["preprocessing"], preprocessing))
        if theirs != ours:
            raise ValueError(
                f"{path}: the teacher was trained with {key} {theirs}, the student's data has {ours}; "
                "give both the same data section, or train a teacher on this data"
            )


def refuse_other_content(teacher: dict[str, Any], cases: Mapping[str, Sequence[str]], path: str) -> None:
    """Raises ValueError when cases of the same name hold other images or labels than the teacher was trained on.

    cases: digests, see `datasets.fingerprints`. Teachers trained before checkpoints recorded them are let through.
    """
    if changed := changed_cases(teacher.get("data", {}).get("cases", {}), cases):
        raise ValueError(
            f"{path}: the teacher was trained on other data: {changed} since; train it again on these data, or give "
            "the student the data that it was trained on"
        )


def check_scores(
    rows: Sequence[dict[str, Any]],
    score_cases: Callable[[list[str]], list[dict[str, Any]]],
    cases: Sequence[str],
    metric: Metric,
    path: str,
) -> str:
    """Scores the teacher on a few val cases that its checkpoint has scores for, and compares.

    The means of `metric.case_score` are compared over up to `metric.check_cases` cases, spread over all of them: on a
    single small tumor a few voxels make all the difference.

    Args:
        rows: Those of the checkpoint, one for each case (and class).
        score_cases: Scores the rebuilt teacher.

    Returns a line to print. Raises ValueError when the means differ by more than 0.05, or the median case does: answers
    in another order have the same mean.
    """
    what = metric.case_score
    recorded = {(row["case"], row.get("class")): row[what] for row in rows if what in row}
    scored = {case for case, _ in recorded}
    known = [case for case in cases if case in scored]
    known = known[:: max(1, len(known) // metric.check_cases)][: metric.check_cases]
    if not recorded:
        return "teacher: its checkpoint has no scores of cases, so none was checked"
    if not known:
        return "teacher: none of its val cases is among the student's, so its recorded score was not checked"
    again = [row for row in score_cases(known) if (row["case"], row.get("class")) in recorded]
    now = sum(row[what] for row in again) / len(again)
    then = sum(recorded[row["case"], row.get("class")] for row in again) / len(again)
    on = ", ".join(known) if len(known) <= 3 else f"{len(known)} val cases"
    means = f"mean {what.replace('_', ' ')}"
    apart = statistics.median(abs(row[what] - recorded[row["case"], row.get("class")]) for row in again)
    if abs(now - then) > TOLERANCE or apart > TOLERANCE:
        raise ValueError(
            f"{path}: scores {now:.4f} {means} on {on} but its checkpoint says {then:.4f} (the median case is "
            f"{apart:.4f} apart); are these "
            "the images it was trained on? last.ckpt may hold weights newer than its scores: give best.ckpt"
        )
    return f"teacher: scored again on {on}: {now:.4f} {means}, its checkpoint says {then:.4f}"


@torch.no_grad()
def trial(distiller: Distiller, image: Tensor, target: Tensor) -> list[dict[str, str]]:
    """Runs every term once: creates the projectors, and returns each term's shapes.

    image (B, C, H, W), target (B, 1, H, W) or (B,). Returns a row for each term, for `table`. Raises ValueError naming
    a term that cannot be computed.
    """
    was_training = distiller.training
    distiller.eval()
    student, teacher = distiller.features(image)
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


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
