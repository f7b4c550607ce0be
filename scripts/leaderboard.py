"""Trains students alone and by many methods from the same seeds, and shows which method helps, and by how much.

A plan (YAML, see configs/leaderboards and the fields of utils/leaderboard/plan.py) names the data, a teacher, students,
methods and seeds. For each student and seed, all runs start from the same weights, see the same batches with the same
augmentation and train for the same number of epochs. The weight of each method's terms is chosen on val first, with an
equal budget of short runs on another seed. Each run is scored on test once, at its end.

Finished runs are kept, stopped runs are resumed, and a run that fails is reported and left out. OUTPUT receives
leaderboard.csv, leaderboard.html, scores.csv (the Dice of each seed and case), and a folder for each run; two
leaderboards do not train in one OUTPUT at once.

  python scripts/leaderboard.py configs/leaderboards/hippocampus.yaml --jobs 2
  python scripts/leaderboard.py configs/leaderboards/phantom.yaml --gpus 0 1 2 3 --per_gpu 2
  python scripts/leaderboard.py configs/leaderboards/liver.yaml --table      # from the finished runs, without training
"""

import argparse
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.command import run_command


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", type=Path, help="YAML file, see above")
    parser.add_argument("--jobs", type=int, help="runs at once where no GPUs are given (default: 1)")
    parser.add_argument("--gpus", nargs="+", default=[], metavar="ID", help="GPUs to share out, e.g. 0 1 2 3")
    parser.add_argument("--per_gpu", type=int, help="runs at once on each GPU (default: 1)")
    parser.add_argument("--table", action="store_true", help="only make the table of what is done")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)

    def work() -> int:
        from utils.leaderboard.measure import measure  # it loads torch, which --help does not need

        return measure(args)

    return run_command("leaderboard", work, "stopped; the same command goes on from here")


if __name__ == "__main__":
    sys.exit(main())
