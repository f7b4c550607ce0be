"""Measure what is fast and what it is compared with on the same input, in one run.

  python scripts/benchmarks/benchmark.py slicing        SliceMaker against the published slicing script
  python scripts/benchmarks/benchmark.py pipeline       batches of slices against MONAI's transforms one by one
  python scripts/benchmarks/benchmark.py kd_step        one EMKD step against the published step
  python scripts/benchmarks/benchmark.py teacher_cache  a student's step, the teacher's answers read or computed
  python scripts/benchmarks/benchmark.py soft_maps      a student's step with a teacher's soft maps, or the teacher
  python scripts/benchmarks/benchmark.py prediction     a volume from file to file, students beside their teacher
  python scripts/benchmarks/benchmark.py gpu            steps, batches, trainings and a prediction on a GPU, in minutes

`python scripts/benchmarks/benchmark.py slicing --help` lists the flags of one of them.
"""

import argparse
import ast
import sys
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from utils.command import make_parser, run_command
from utils.machine import cores


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__)
    benchmarks = parser.add_subparsers(dest="benchmark", required=True, metavar="BENCHMARK")

    def add(name: str, **options: tuple[int, str]) -> argparse.ArgumentParser:
        """A benchmark whose options are whole numbers: their defaults and help texts."""
        described = ast.get_docstring(ast.parse(Path(__file__).with_name(f"{name}.py").read_text()))  # no import: torch
        how = {"description": described, "formatter_class": argparse.RawDescriptionHelpFormatter}
        benchmark = benchmarks.add_parser(name, **how)
        for option, (default, help_text) in options.items():
            benchmark.add_argument(f"--{option}", type=int, default=default, help=f"{help_text} (default: {default})")
        return benchmark

    threads = (cores(), "threads of PyTorch on a CPU")
    add(
        "slicing",
        cases=(4, "volumes to slice"),
        slices=(216, "slices of 512x512 in each, as many as KiTS19 has on average"),
        rounds=(3, "runs of SliceMaker and of the floor"),
        jobs=(cores(), "worker processes"),
    )
    add(
        "pipeline",
        slices=(32, "random slices to draw from"),
        batch_size=(16, "slices in a batch"),
        rounds=(10, "timed batches of each way, after an untimed one"),
        threads=(1, "threads of PyTorch, 1 as in a worker process"),
    )
    kd_step = add(
        "kd_step",
        size=(384, "side of the image in pixels"),
        batch_size=(4, "images in a step"),
        rounds=(5, "timed steps of each way, after 2 untimed ones"),
        threads=threads,
    )
    kd_step.add_argument("--compile", action="store_true", help="add torch.compile to the last combination")
    cache = add(
        "teacher_cache",
        size=(128, "side of the image in pixels"),
        slices=(16, "images, each in 8 views"),
        batch_size=(8, "images in a step"),
        rounds=(2, "timed passes over all views"),
        threads=threads,
    )
    cache.add_argument("--method", default="emkd", help="a file of configs/methods (default: emkd)")
    cache.add_argument("--teacher", default="raunet", help="network (default: raunet)")
    soft = add(
        "soft_maps",
        size=(256, "side of the image in pixels"),
        batch_size=(8, "images in a step"),
        rounds=(5, "timed steps of each way, after an untimed one"),
        threads=(1, "threads of PyTorch"),
    )
    soft.add_argument("--method", default="hinton", help="a file of configs/methods (default: hinton)")
    soft.add_argument("--teacher", default="raunet", help="network (default: raunet)")
    prediction = add(
        "prediction",
        slices=(400, "slices of the made volume"),
        rounds=(1, "predictions of each network, of which the median is printed"),
        threads=threads,
    )
    prediction.add_argument("--teacher", type=Path, required=True, help="run folder or checkpoint")
    help_student = (
        "run folder, checkpoint, or what export.py made: the folder or a file of it; engine and locator as predict.py "
        "has them"
    )
    how = {"nargs": "+", "required": True, "metavar": "[NAME=]PATH[,ENGINE][,locate=LOCATOR]", "help": help_student}
    prediction.add_argument("--student", **how)
    prediction.add_argument("--volume", type=Path, help="NIfTI to predict (default: one of 512x512 pixels is made)")
    help_truth = "labels of that volume, in the numbers of the networks' classes: adds the Dice of each class"
    prediction.add_argument("--truth", type=Path, help=help_truth)
    gpu = add("gpu", minutes=(6, "after which no part begins and one at work is ended"), threads=threads)
    for benchmark in (prediction, gpu):
        benchmark.add_argument("--output", type=Path, help="also write the figures to this JSON file")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)

    def measure() -> int:
        # Only the chosen one is imported: torch would count in the memory of the processes that slice.
        import_module(f"scripts.benchmarks.{args.benchmark}").run(args)
        return 0

    return run_command("benchmark", measure)


if __name__ == "__main__":
    sys.exit(main())
