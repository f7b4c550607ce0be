"""Distils a teacher into a student: the student's task loss and the terms of a method.

Example: python train_kd.py --config configs/kits19_student.yaml --loss_type emkd --teacher runs/kits19_raunet/best.ckpt
Published: python train_kd.py --tckpt DIR/best.ckpt --smodel resnet_18
           python train.py --model HDKD --teacher-path DIR/best.ckpt --data-path FOLDER
"""

import sys
from pathlib import Path

from torch import nn
from torch.utils.data import default_collate

from utils.distillation.balance import balance
from utils.distillation.objective import Distiller
from utils.distillation.teacher_cache import TeacherCache
from utils.distillation.terms import asks_teacher, read_terms
from utils.experiment import teacher as guards
from utils.experiment.run import Experiment, main
from utils.recipe.command_line import parse
from utils.recipe.schema import DistillationRecipe
from utils.tables import table
from utils.training import checkpoints
from utils.training.launch import resolve_precision


def distilled(experiment: Experiment) -> Distiller:
    """The student's objective, once the teacher is known to be right: rebuilt strictly, no leak, its score repeated.

    Where all terms learn from the student itself there is no teacher.
    """
    recipe, fabric = experiment.recipe, experiment.fabric
    if not recipe.distillation:
        raise ValueError("distillation: no terms; give --loss_type METHOD (configs/methods) or a list of terms")
    teacher = _checked_teacher(experiment) if asks_teacher(recipe.distillation) else None
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
        experiment.scale_terms(balance(fabric, distiller, experiment.train, *settings))
    if fabric.is_global_zero:
        if teacher is None:
            print("teacher: none, every term learns from the student itself")
        weights = [{"weight": f"{term.weight:g}"} for term in distiller.terms]
        print(f"\n{table([row | weight for row, weight in zip(rows, weights, strict=True)])}\n")
        if experiment.balance is not None:
            share, factor = experiment.balance["share"], experiment.balance["factor"]
            when = "when the run began" if experiment.resumed is not None else "after a warm-up"
            print(f"weights of the terms times {factor:.4g}: {share:g} times the task's gradient, measured {when}\n")
    return distiller


def _checked_teacher(experiment: Experiment) -> nn.Module:
    """The teacher on its device: of the same input, without a leak, and scoring what its checkpoint says."""
    recipe, fabric = experiment.recipe, experiment.fabric
    if not recipe.teacher:
        raise ValueError("teacher: none given; train one with train.py and give its --teacher FOLDER/best.ckpt")
    checkpoint = checkpoints.load(recipe.teacher)
    if not recipe.allow_leak:
        guards.refuse_leak(checkpoint, experiment.split, recipe.teacher)
    guards.refuse_other_input(checkpoint, experiment.train.preprocessing, recipe.teacher)
    guards.refuse_other_content(checkpoint, experiment.data["cases"], recipe.teacher)
    teacher = fabric.to_device(checkpoints.rebuild(checkpoint))
    line = guards.check_scores(
        checkpoint["scores"]["cases"],
        lambda cases: experiment.score(teacher, cases, "score the teacher again")[1],
        experiment.val.cases,
        experiment.metrics()[0],
        recipe.teacher,
    )
    if fabric.is_global_zero:
        print(line, flush=True)
    return teacher


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
    identity = (str(experiment.teacher_sha256), *how)
    return TeacherCache(Path(recipe.teacher_cache), identity, recipe.teacher_cache_gb)


def run() -> int:
    return main(parse(DistillationRecipe, __doc__), distilled)


if __name__ == "__main__":
    sys.exit(run())
