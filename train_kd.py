"""Distils a teacher into a student: the student's task loss and the terms of a method.

Example: python train_kd.py --config configs/kits19_student.yaml --loss_type emkd --teacher runs/kits19_raunet/best.ckpt
Published: python train_kd.py --tckpt DIR/best.ckpt --smodel resnet_18
           python train.py --model HDKD --teacher-path DIR/best.ckpt --data-path FOLDER
"""

import sys

from utils.command import importing_torch
from utils.recipe.command_line import parse
from utils.recipe.schema import DistillationRecipe


def main() -> int:
    recipe = parse(DistillationRecipe, __doc__)
    with importing_torch():  # --help and a wrong flag do not need it
        from utils.experiment.run import main as run

    return run(recipe)


if __name__ == "__main__":
    sys.exit(main())
