"""Plans a training from the data: writes a teacher's and a student's recipe, and a page that says why for each value.

It reads a slice store, or with --inpath and --dataset raw volumes that are not sliced yet, and looks at sizes,
millimeters, intensities and volumes of the training cases. Spacing, window, crop, augmentation, thinning, batch, epochs
and learning rate follow from them. A step of both trainings is tried on this machine first, so that the page says how
much memory and time they take. Where other pixels are better than the stored ones, SliceMaker's command is printed.

  python scripts/Plan.py --data data/kits19
  python scripts/Plan.py --data data/kits19 --budget "5 s"
  python scripts/Plan.py --inpath raw/kits19 --dataset kits --data data/kits19
  python train.py --config plans/kits19/teacher.yaml
  python train_kd.py --config plans/kits19/student.yaml
"""

import argparse
import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from datasets.volumes.layouts import LAYOUTS
from utils.command import importing_torch, make_parser, run_command


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--data", required=True, type=Path, help="slice store; with --inpath the one that is to be made")
    add("--inpath", type=Path, help="folder of raw volumes, where there is no store yet")
    add("--dataset", choices=LAYOUTS, help="layout of --inpath")
    add("--channel", type=int, help="which channel of a multi-channel image of --inpath, counted from 0")
    add("--task", choices=("tumor", "organ", "all"), help="which labels to learn (default: the store's own)")
    add("--teacher", default="raunet", help="network of the teacher (default: raunet)")
    add("--student", help="network of the student (default: enet; with --budget the best of several)")
    help_budget = "time for one volume on this machine, such as '5 s': the spacing and the student that keep to it"
    add("--budget", metavar="TIME", help=help_budget)
    add("--locate", action="store_true", help="plan a small locator at 4 to 6 mm, instead of a teacher and a student")
    add("--output", type=Path, help="folder for the recipes and the page (default: plans/NAME, NAME that of the store)")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    command = shlex.join(["python", "scripts/Plan.py", *(sys.argv[1:] if argv is None else argv)])
    return run_command("Plan", lambda: plan(args, command))


def plan(args: argparse.Namespace, command: str) -> int:
    """Make the plan, and print it."""
    if (args.inpath is None) != (args.dataset is None):
        raise ValueError("--inpath and --dataset belong together: name the folder of the raw volumes and their layout")
    if args.locate and args.budget is not None:
        raise ValueError("--locate and --budget do not go together: plan the locator by itself")
    with importing_torch():  # --help and a wrong flag do not need it
        from utils.planning.budget import seconds_of
        from utils.planning.plan import Wanted, make_plan

    output = args.output or Path("plans") / args.data.resolve().name
    return make_plan(
        Wanted(
            store=args.data,
            raw=args.inpath,
            dataset=args.dataset,
            channel=args.channel,
            task=args.task,
            teacher=args.teacher,
            student=args.student,
            budget=None if args.budget is None else seconds_of(args.budget),
            locate=args.locate,
            output=output,
        ),
        command,
    )


if __name__ == "__main__":
    sys.exit(main())
