"""Compares finished runs on the test split: scores, size, work, time, and whether a difference is more than noise.

Each group is one row: NAME=RUN, or NAME=RUN,RUN,... for several seeds of one recipe. A RUN is an output folder of
train.py or train_kd.py with a test.json (written by --mode test). The groups that come after the one named with
--against are compared with it, case by case. Runs of other test cases, targets, splits or classes, and a run given
twice, are refused.

Example: python scripts/compare.py teacher=runs/t student=runs/s0,runs/s1 distilled=runs/d0,runs/d1 --against student
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.command import run_command


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="+", metavar="NAME=RUN[,RUN...]")
    parser.add_argument("--against", metavar="NAME", help="the group that those after it are compared with")
    parser.add_argument("--size", type=int, help="side of the image for MACs and ms (default: the recipe's)")
    parser.add_argument("--markdown", action="store_true", help="print the table in Markdown")
    return parser


def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)

    def work() -> int:
        from utils.runs.side_by_side import compare  # it loads torch, which --help does not need

        return compare(arguments)

    return run_command("compare", work)


if __name__ == "__main__":
    sys.exit(main())
