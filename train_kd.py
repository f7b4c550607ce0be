"""Distils a teacher into a student: the student's task loss and the terms of a method.

Example: python train_kd.py --config configs/kits19_student.yaml --loss_type emkd --teacher runs/kits19_raunet/best.ckpt
Published: python train_kd.py --tckpt DIR/best.ckpt --smodel resnet_18
           python train.py --model HDKD --teacher-path DIR/best.ckpt --data-path FOLDER
"""

import sys
from pathlib import Path
from typing import Any

from torch.utils.data import default_collate

from utils import checkpoints, guards
from utils.balance import balance
from utils.command_line import parse
from utils.config import DistillationRecipe
from utils.experiment import Experiment, main
from utils.launch import resolve_precision
from utils.objectives import Distiller
from utils.teacher_cache import TeacherCache
from utils.terms import asks_teacher, read_terms


def distilled(experiment: Experiment) -> Distiller:
    """The student's objective, once the teacher is known to be right: rebuilt strictly, no leak, its score repeated.

    Where all terms learn from the student itself there is none.
    """
    recipe, fabric = experiment.recipe, experiment.fabric
    if not recipe.distillation:
        raise ValueError("distillation: no terms; give --loss_type METHOD (configs/methods) or a list of terms")
    checkpoint = _checked_teacher(experiment) if asks_teacher(recipe.distillation) else None
    teacher = None if checkpoint is None else fabric.to_device(checkpoints.rebuild(checkpoint))
    distiller = Distiller(
        experiment.network,
        teacher,
        experiment.task,
        read_terms(recipe.distillation, num_classes=experiment.train.num_classes),
        bool(experiment.train.unlabeled),
        _cache(experiment) if recipe.teacher_cache and teacher is not None else None,
    )
    batch = default_collate([experiment.train[0], experiment.train[len(experiment.train) // 2]])
    fabric.to_device(distiller)
    image, target = fabric.to_device(batch["image"]), fabric.to_device(batch["target"]).clamp(min=0)
    rows = guards.trial(distiller, image, target)
    if recipe.distillation_share is not None:
        settings = (recipe.training, recipe.seed, recipe.distillation_share)
        factor = balance(fabric, distiller, experiment.train, *settings)
        rows = guards.trial(distiller, image, target)
    line = "teacher: none, every term learns from the student itself"
    if checkpoint is not None:
        line = guards.check_scores(
            checkpoint["scores"]["cases"],
            lambda cases: experiment.score(teacher, cases, "score the teacher again")[1],
            experiment.val.cases,
            experiment.metrics()[0],
            recipe.teacher,
        )
    if fabric.is_global_zero:
        print(f"{line}\n\n{guards.table(rows)}\n")
        if recipe.distillation_share is not None:
            share = recipe.distillation_share
            print(f"weights of the terms times {factor:.4g}: {share:g} times the task's gradient after a warm-up\n")
    return distiller


def _checked_teacher(experiment: Experiment) -> dict[str, Any]:
    """The teacher's checkpoint, of the same input and without a leak."""
    recipe = experiment.recipe
    if not recipe.teacher:
        raise ValueError("teacher: none given; train one with train.py and give its --teacher FOLDER/best.ckpt")
    checkpoint = checkpoints.load(recipe.teacher)
    guards.refuse_other_input(checkpoint, experiment.train.preprocessing, recipe.teacher)
    if not recipe.allow_leak:
        guards.refuse_leak(checkpoint, experiment.split, recipe.teacher)
    return checkpoint


def _cache(experiment: Experiment) -> TeacherCache:
    """The teacher's known answers. Raises ValueError where images are new at every step and nothing could be kept."""
    recipe = experiment.recipe
    continuous = sorted({"affine", "intensity"} & set(recipe.data.get("augment", ())))
    if continuous or recipe.data.get("crop_mode") == "foreground":
        what = f"augment {', '.join(continuous)}" if continuous else "crop_mode foreground"
        raise ValueError(f"teacher_cache: with {what} no image comes twice; use augment flip, rot90 and center crops")
    settings = recipe.training
    precision = resolve_precision(settings.precision, experiment.fabric.device.type)
    how = (precision, experiment.fabric.device.type, f"channels_last {settings.channels_last}")
    identity = (checkpoints.sha256(Path(recipe.teacher)), *how)
    return TeacherCache(Path(recipe.teacher_cache), identity, recipe.teacher_cache_gb)


def run() -> int:
    return main(parse(DistillationRecipe, __doc__), distilled)


if __name__ == "__main__":
    sys.exit(run())
