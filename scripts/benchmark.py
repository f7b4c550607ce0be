"""Measure this project against the published way of doing the same, on the same input, in one run.

python scripts/benchmark.py slicing
python scripts/benchmark.py kd_step
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts import benchmark_kd_step, benchmark_slicing

BENCHMARKS = {"kd_step": benchmark_kd_step, "slicing": benchmark_slicing}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    choices = parser.add_subparsers(dest="benchmark", required=True)
    for name, benchmark in BENCHMARKS.items():
        benchmark.add_arguments(choices.add_parser(name, help=benchmark.__doc__.splitlines()[0]))
    args = parser.parse_args()
    BENCHMARKS[args.benchmark].run(args)


if __name__ == "__main__":
    main()
