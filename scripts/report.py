"""One HTML page about a set of runs of one dataset: verdict, data and recipes, scores with intervals, learning curves,
latency stage by stage, cases or images with every answer, attention, and how all of it was measured.

The page is one file that needs no network and no script; it prints, and follows the browser's light or dark.

  python scripts/report.py --runs runs/teacher runs/student runs/student_emkd --output report.html
  python scripts/report.py --runs runs/demo/*/ --output report.html --volume case.nii.gz --repeats 5
  python scripts/report.py --runs runs/a runs/b --output report.html --exports exports/b --no_latency

A run whose recipe names a teacher was distilled; the same network without a teacher is its control; what is left is a
teacher. Runs that differ in their seed alone are one row. What a run lacks, and a run that is left out, is named in one
line, on the page too; the rest goes on, and the exit code is 1. Only an earlier page is replaced.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.command import run_command


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--runs", required=True, nargs="+", type=Path, metavar="RUN", help="output folders of train.py and train_kd.py")
    add("--output", required=True, type=Path, help="the page, e.g. report.html")
    add("--exports", nargs="+", default=[], type=Path, metavar="DIR", help="folders that scripts/export.py wrote")
    add("--data", metavar="ROOT", help="slice store or file of images, if it has moved since the training")
    timing = parser.add_mutually_exclusive_group()
    help_volume = "NIfTI or DICOM folder to time (default: the largest test case of the slice store)"
    timing.add_argument("--volume", type=Path, help=help_volume)
    timing.add_argument("--no_latency", action="store_true", help="time nothing")
    add("--repeats", type=int, default=3, help="timings of which the median is taken (default: 3)")
    add("--cases", type=int, default=3, help="cases shown, from the worst to the best (default: 3; 0: none)")
    add("--title", help="title of the page (default: what was compared)")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    command = ["scripts/report.py", *(sys.argv[1:] if argv is None else argv)]
    return run_command("report", lambda: report(args, command))


def report(args: argparse.Namespace, command: list[str]) -> int:
    """Make the page, and print its path; 1 where a part of it could not be made."""
    check_flags(args)
    from utils.report.assembly import make_report  # they load torch, which --help does not need
    from utils.report.facts import Wanted

    wanted = Wanted(
        runs=args.runs,
        output=args.output,
        exports=args.exports,
        data=args.data,
        volume=args.volume,
        latency=not args.no_latency,
        repeats=args.repeats,
        cases=args.cases,
        title=args.title,
        command=command,
    )
    notes = make_report(wanted, warn=lambda line: print(f"report: {line}", file=sys.stderr))
    print(args.output)
    return 1 if notes else 0


def check_flags(args: argparse.Namespace) -> None:
    for name, least in (("repeats", 1), ("cases", 0)):
        if getattr(args, name) < least:
            raise ValueError(f"--{name} {getattr(args, name)}: give {least} or more")
    if args.output.is_dir():
        raise ValueError(
            f"--output {args.output}: is a folder: give the name of a file, e.g. {args.output}/report.html"
        )
    if args.output.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--output {args.output}: the page is HTML: give a name that ends in .html")


if __name__ == "__main__":
    sys.exit(main())
