"""Distils a teacher into a student: the student's task loss and the terms of a method.

Example: python train_kd.py --config configs/kits19_student.yaml --loss_type emkd --teacher runs/kits19_raunet/best.ckpt
Published: python train_kd.py --tckpt DIR/best.ckpt --smodel resnet_18
           python train.py --model HDKD --teacher-path DIR/best.ckpt --data-path FOLDER
"""

import sys

from torch.utils.data import default_collate

from utils import checkpoints, guards
from utils.command_line import parse
from utils.config import DistillationRecipe
from utils.experiment import Experiment, main
from utils.objectives import Distiller
from utils.terms import read_terms


def distilled(experiment: Experiment) -> Distiller:
    """The student's objective, once the teacher is known to be right: rebuilt strictly, no leak, its score repeated."""
    recipe, fabric = experiment.recipe, experiment.fabric
    if not recipe.distillation:
        raise ValueError("distillation: no terms; give --loss_type METHOD (configs/methods) or a list of terms")
    if not recipe.teacher:
        raise ValueError("teacher: none given; train one with train.py and give its --teacher FOLDER/best.ckpt")
    checkpoint = checkpoints.load(recipe.teacher)
    guards.refuse_other_input(checkpoint, experiment.train.preprocessing, recipe.teacher)
    if not recipe.allow_leak:
        guards.refuse_leak(checkpoint, experiment.split, recipe.teacher)
    teacher = fabric.to_device(checkpoints.rebuild(checkpoint))
    distiller = Distiller(
        experiment.network,
        teacher,
        experiment.task,
        read_terms(recipe.distillation, num_classes=experiment.train.num_classes),
    )
    batch = default_collate([experiment.train[0], experiment.train[len(experiment.train) // 2]])
    fabric.to_device(distiller)
    rows = guards.trial(distiller, fabric.to_device(batch["image"]), fabric.to_device(batch["target"]))
    line = guards.check_scores(
        checkpoint["scores"]["cases"],
        lambda cases: experiment.score(teacher, cases, "score the teacher again")[1],
        experiment.val.cases,
        experiment.metrics()[0],
        recipe.teacher,
    )
    if fabric.is_global_zero:
        print(f"{line}\n\n{guards.table(rows)}\n")
    return distiller


def run() -> int:
    return main(parse(DistillationRecipe, __doc__), distilled)


if __name__ == "__main__":
    sys.exit(run())
