"""What is checked before the first step of a distillation: the teacher, its patients, and every term's shapes."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from datasets.findings import listed
from utils.distillation.objective import Distiller
from utils.distillation.taps import tap
from utils.distillation.terms import Task
from utils.evaluation.kind import IMAGES, kind_of
from utils.experiment.resuming import changed_cases
from utils.training.checkpoints import patients_of

SAME_INPUT = ("modality", "window", "task", "class_names", "image_size", "in_channels", "mean", "std")
TOLERANCE = 0.05  # Dice or probability: room for another precision or device, not for other weights or slices


def refuse_other_input(teacher: dict[str, Any], preprocessing: dict[str, Any], path: str) -> None:
    """Raises ValueError when the teacher was trained on other images or classes than the student will see."""
    for key in SAME_INPUT:
        theirs, ours = _plain(teacher["preprocessing"].get(key)), _plain(preprocessing.get(key))
        if theirs != ours:
            raise ValueError(
                f"{path}: the teacher was trained with {key} {theirs}, the student's data has {ours}; "
                "give both the same data section, or train a teacher on this data"
            )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def refuse_leak(teacher: dict[str, Any], split: dict[str, Any], path: str) -> None:
    """Raises ValueError when the teacher was trained on the student's val or test patients, or selected on its test."""
    theirs = teacher["split"]
    try:
        patients_of(theirs, path)
    except ValueError as error:
        raise ValueError(f"{error}, or give --allow_leak to go on without knowing of a leak") from None
    for seen, held_out in (("train", "val"), ("train", "test"), ("val", "test")):
        shared = sorted(set(theirs[seen]) & set(split[held_out]))
        if shared:
            raise ValueError(
                f"{path}: the teacher's {seen} patients include {len(shared)} of the student's {held_out} patients "
                f"({listed(shared)}); use the same split file for both, or --allow_leak to go on"
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


def refuse_misfit(network: nn.Module, task: Task, metric: Any, sample: dict[str, Any]) -> None:
    """Raises ValueError when network, task loss, metric and data are not of one kind: maps or single answers.

    Only shapes pass through the network.
    """
    with torch.device("meta"):
        copy = deepcopy(network).to("meta").eval()
        features = tap(copy, sample["image"][None].to("meta"), [task.on])
    target = sample["target"][None].clamp(min=0)  # -1: unlabeled
    zeros = {name: torch.zeros(feature.shape) for name, feature in features.items()}
    try:
        task(zeros, target)
        metric.update(zeros["logits"], target, [sample["case"]])
    except (ValueError, RuntimeError, IndexError) as error:
        logits, wanted = (tuple(value.shape[1:]) for value in (zeros[task.on], target))
        raise ValueError(
            f"{type(network).__name__} answers an image with {logits}, its target is {wanted or 'one class'}: network, "
            f"task_loss, metric and data do not belong together ({' '.join(str(error).split())[:200]})"
        ) from None


def refuse_lonely(network: nn.Module, image: Tensor, batch_size: int, count: int) -> None:
    """Raises ValueError when a batch has one image and the network normalizes over batches of more.

    image (C, H, W); batch_size: of each process; count: images to train on. Only shapes pass through the network.
    """
    if min(batch_size, count) > 1:
        return
    with torch.device("meta"):
        copy = deepcopy(network).to("meta").train()
        try:
            copy(image[None].to("meta"))
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            key = "training.batch_size" if batch_size == 1 else "the data: more than one image to train on"
            raise ValueError(
                f"{type(network).__name__} normalizes over a batch, and one image is not enough: raise {key}"
            ) from None


def refuse_val_without(metric: Any, val: Dataset) -> str | None:
    """Raises ValueError when val lacks the classes that the selecting score is taken over.

    Returns a line to print where only some of them are lacking.
    """
    if kind_of(val.preprocessing) is IMAGES:
        metric.update(torch.zeros(len(val), val.num_classes), torch.tensor(val.labels), val.cases)
        if metric.selects in metric.compute():
            return None
        counts = ", ".join(f"{count} {name}" for count, name in zip(val.class_counts, val.class_names, strict=True))
        raise ValueError(
            f"metric: {metric.selects} cannot be taken over val, which holds {counts}; set metric.select to accuracy, "
            "or give val more images (another split_seed, val_fraction or ratios)"
        )
    absent = [name for name in val.class_names if name not in val.shown_classes]
    what, rule = f"none of the {len(val.cases)} val cases shows {' or '.join(absent)}", metric.empty_mask_rule
    if len(absent) == len(val.class_names):
        raise ValueError(
            f"metric: {what}, so {metric.selects} would select a network that finds nothing ({rule}); slice again with "
            "another split, or set another data.task"
        )
    if absent:
        return (
            f"{what}; {metric.selects}, which selects, is the mean over {', '.join(val.class_names)} and rewards "
            f"finding nothing there ({rule})"
        )
    return None


def check_scores(
    rows: Sequence[dict[str, Any]],
    score_cases: Callable[[list[str]], list[dict[str, Any]]],
    cases: Sequence[str],
    metric: Any,
    path: str,
) -> str:
    """Scores the teacher on a few val cases that its checkpoint has scores for, and compares.

    `rows` are the checkpoint's, one a case (and class); `score_cases` scores the rebuilt teacher. Compared is the mean
    of `metric.case_score` over up to `metric.check_cases` cases, spread over all of them: of a single small tumor a few
    voxels make all the difference. Returns a line for the person. Raises ValueError when the means differ by more than
    0.05, or the median case does: answers in another order have the same mean.
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

    image (B, C, H, W), target (B, 1, H, W) or (B,). Returns a row a term, for `table`. Raises ValueError naming a term
    that cannot be computed.
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
