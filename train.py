"""Trains one network on slices or images: a teacher, or a student without a teacher.

Example: python train.py --config configs/phantom_teacher.yaml --training.epochs 5
Published: python train.py --model raunet --checkpoint_path DIR
           python train.py --model teacher_model --epochs 200 --batch-size 16 --data-path FOLDER
"""

import sys

import train_kd
from utils.command import importing_torch
from utils.recipe.command_line import parse
from utils.recipe.schema import Recipe


def main() -> int:
    # HDKD's published command gives the teacher to the one script it has.
    if any(argument.partition("=")[0] == "--teacher-path" for argument in sys.argv):
        return train_kd.main()
    recipe = parse(Recipe, __doc__)
    with importing_torch():  # --help and a wrong flag do not need it
        from utils.experiment.run import main as run

    return run(recipe)


if __name__ == "__main__":
    sys.exit(main())
