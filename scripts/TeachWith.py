"""Let any teacher fill the soft maps of a slice store, from which students are then trained without it.

Maps are the probabilities of every foreground class at every pixel of the store, a byte each. `teacher: {maps: FOLDER}`
in a recipe trains any student with them: see docs/your-own-teacher.md. The teacher is one of

  --checkpoint RUN [RUN ...]   run folders or checkpoints of train.py; of several the mean of their probabilities
  --maps FOLDER                what nnUNetv2_predict or TotalSegmentator left with --save_probabilities (npz and pkl),
                               NIfTI with a class along the fourth axis, or NIfTI labels, named as the cases are
  --onnx FILE --sidecar YAML   any network of volumes or slices; the YAML says what it takes and answers
  --nnunet FOLDER              trained nnU-Net v2 (needs nnunetv2): a case is answered by folds that did not see it

  python scripts/TeachWith.py --data data/kits19 --checkpoint runs/kits19_raunet --output maps/kits19_raunet
  python scripts/TeachWith.py --data data/kits19 --maps totalsegmentator --output maps/totalsegmentator \\
    --only kidney_left kidney_right --license Apache-2.0
  python scripts/TeachWith.py --data data/kits19 --onnx net.onnx --sidecar net.yaml --output maps/net
  python scripts/TeachWith.py --data data/kits19 --output maps/nnunet \\
    --nnunet nnUNet_results/Dataset220_KiTS/nnUNetTrainer__nnUNetPlans__3d_fullres

A teacher that was trained on the store's val or test patients, or chosen by its test patients, is refused, for every
figure of its student would be too good. What is there already stays: the same command goes on where it was stopped. A
case that cannot be answered is reported in one line, the others are finished, and the exit status is then 1.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from datasets.splits import SPLITS
from utils.command import check_numbers, importing_torch, make_parser, run_command
from utils.teaching.flags import add_teacher, check_teacher, kind_of


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--data", required=True, type=Path, metavar="STORE", help="slice store, as SliceMaker.py wrote it")
    add("--output", required=True, type=Path, metavar="MAPS", help="folder of the maps")
    help_splits = "whose cases are answered (default: train val)"
    add("--splits", nargs="+", choices=SPLITS, default=["train", "val"], help=help_splits)
    help_weights = "of several checkpoints: the mean, or weights chosen on the labels of the val cases (default: mean)"
    add("--weights", choices=("mean", "val"), default="mean", help=help_weights)
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: a GPU where there is one")
    add("--batch_size", type=int, help="slices or patches at a time (default: 4, on a GPU 16)")
    add("--jobs", type=int, default=1, help="worker processes, each with the teacher in its memory (default: 1)")
    add("--shard", default="0/1", metavar="I/N", help="every N-th case from the I-th on (0 <= I < N): array jobs")
    add("--scheduler", metavar="ADDRESS", help="Dask scheduler (tcp://host:8786) whose workers answer the cases")
    add_teacher(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)

    def work() -> int:
        check_numbers(args, jobs=1, batch_size=1)
        check_teacher(args)
        with importing_torch():  # --help does not need it
            from utils.teaching.teach import teach
            from utils.teaching.teacher import Wish
        kind = kind_of(args)
        wish = Wish(
            kind=kind,
            paths=tuple(path.absolute() for path in getattr(args, kind)),
            data=args.data.absolute(),
            splits=tuple(args.splits),
            only=tuple(args.only),
            classes=tuple(args.classes),
            weights=args.weights,
            sidecar=args.sidecar and args.sidecar.absolute(),
            splits_final=args.splits_final and args.splits_final.absolute(),
            folds=tuple(args.folds),
            mirror=not args.no_mirror,
            seen=args.seen and args.seen.absolute(),
            license=args.license,
            allow_leak=args.allow_leak,
            device=args.device,
            batch_size=args.batch_size,
        )
        return teach(wish, args.output, args.shard, args.jobs, args.scheduler)

    return run_command("TeachWith", work, "interrupted; the same command continues where it stopped")


if __name__ == "__main__":
    sys.exit(main())
