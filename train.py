"""Trains one network on slices or images: a teacher, or a student without a teacher.

Example: python train.py --config configs/phantom_teacher.yaml --training.epochs 5
Published: python train.py --model raunet --checkpoint_path DIR
           python train.py --model teacher_model --epochs 200 --batch-size 16 --data-path FOLDER
"""

import sys

import train_kd
from utils.distillation.objective import Supervised
from utils.experiment.run import Experiment, main
from utils.recipe.command_line import parse
from utils.recipe.schema import Recipe


def supervised(experiment: Experiment) -> Supervised:
    return Supervised(experiment.network, experiment.task, bool(experiment.train.unlabeled))


if __name__ == "__main__":
    # HDKD's published command gives the teacher to the one script it has.
    if any(argument.partition("=")[0] == "--teacher-path" for argument in sys.argv):
        sys.exit(train_kd.run())
    sys.exit(main(parse(Recipe, __doc__), supervised))
