"""Measure what is fast and what it is compared with on the same input, in one run.

  python scripts/benchmark.py slicing        SliceMaker against the published slicing script
  python scripts/benchmark.py kd_step        one EMKD step against the published step
  python scripts/benchmark.py teacher_cache  a student's step with the teacher's answers read, and asked for
  python scripts/benchmark.py prediction     a volume from file to file, a student against its teacher

`python scripts/benchmark.py slicing --help` lists what each can be asked.
"""

import argparse
import sys
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.command import run_command

BENCHMARKS = {
    "slicing": "scripts.benchmark_slicing",
    "kd_step": "scripts.benchmark_kd_step",
    "teacher_cache": "scripts.benchmark_teacher_cache",
    "prediction": "scripts.benchmark_prediction",
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark", choices=BENCHMARKS)
    parser.add_argument("flags", nargs=argparse.REMAINDER, help="flags of that benchmark")
    args = parser.parse_args(argv)
    # only the chosen one is imported: torch would count in the memory of the processes that slice
    benchmark = import_module(BENCHMARKS[args.benchmark])
    description = {"description": benchmark.__doc__, "formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser(prog=f"benchmark.py {args.benchmark}", **description)
    benchmark.add_arguments(parser)
    flags = parser.parse_args(args.flags)

    def measure() -> int:
        benchmark.run(flags)
        return 0

    return run_command("benchmark", measure)


if __name__ == "__main__":
    sys.exit(main())
