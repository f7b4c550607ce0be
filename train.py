"""Trains one network on slices: a teacher, or a student without a teacher.

Example: python train.py --config configs/phantom_teacher.yaml --training.epochs 5
Published: python train.py --model raunet --checkpoint_path DIR
"""

import sys

from utils.config import Recipe, parse
from utils.experiment import Experiment, main
from utils.objectives import Supervised


def supervised(experiment: Experiment) -> Supervised:
    return Supervised(experiment.network, experiment.task_loss)


if __name__ == "__main__":
    sys.exit(main(parse(Recipe, __doc__), supervised))
