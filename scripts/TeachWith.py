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

KINDS = ("checkpoint", "maps", "onnx", "nnunet")


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--data", required=True, type=Path, metavar="STORE", help="slice store, as SliceMaker.py wrote it")
    add("--output", required=True, type=Path, metavar="MAPS", help="folder of the maps")
    kinds = parser.add_argument_group("the teacher (one of these)").add_mutually_exclusive_group(required=True)
    help_checkpoint = "run folder or checkpoint of train.py, or several"
    kinds.add_argument("--checkpoint", nargs="+", type=Path, metavar="RUN", help=help_checkpoint)
    kinds.add_argument("--maps", nargs=1, type=Path, metavar="FOLDER", help="folder of files that a program left")
    kinds.add_argument("--onnx", nargs=1, type=Path, metavar="FILE", help="ONNX file, with --sidecar")
    help_nnunet = "folder of a trained configuration, such as .../nnUNetTrainer__nnUNetPlans__3d_fullres"
    kinds.add_argument("--nnunet", nargs=1, type=Path, metavar="FOLDER", help=help_nnunet)
    add("--sidecar", type=Path, metavar="YAML", help="of --onnx: see docs/your-own-teacher.md")
    add("--folds", nargs="+", default=[], metavar="N", help="of --nnunet: which ones (default: all that are trained)")
    help_final = "of --nnunet: splits_final.json of its training (default: where nnU-Net keeps it)"
    add("--splits_final", type=Path, metavar="JSON", help=help_final)
    add("--no_mirror", action="store_true", help="of --nnunet: no test-time mirroring, up to eight times as fast")
    help_splits = "whose cases are answered (default: train val)"
    add("--splits", nargs="+", choices=SPLITS, default=["train", "val"], help=help_splits)
    help_weights = "of several checkpoints: the mean, or weights chosen on the labels of the val cases (default: mean)"
    add("--weights", choices=("mean", "val"), default="mean", help=help_weights)
    add("--only", nargs="+", default=[], metavar="CLASS", help="keep the maps of these classes; the rest is background")
    help_classes = "of --maps: names of the channels or label values 1, 2, ... (default: as its dataset.json has them)"
    add("--classes", nargs="+", default=[], metavar="NAME", help=help_classes)
    help_seen = "JSON with lists train and val of the patients that a teacher of others was trained on and chosen by"
    add("--seen", type=Path, metavar="SPLIT_FILE", help=help_seen)
    add("--license", metavar="TEXT", help="what the teacher's authors ask; it is written into the maps")
    add("--allow_leak", action="store_true", help="use a teacher that has seen val or test patients of the store")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: a GPU where there is one")
    add("--batch_size", type=int, help="slices or patches at a time (default: 4, on a GPU 16)")
    add("--jobs", type=int, default=1, help="worker processes, each with the teacher in its memory (default: 1)")
    add("--shard", default="0/1", metavar="I/N", help="every N-th case from the I-th on (0 <= I < N): array jobs")
    add("--scheduler", metavar="ADDRESS", help="Dask scheduler (tcp://host:8786) whose workers answer the cases")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)

    def work() -> int:
        check_numbers(args, jobs=1, batch_size=1)
        with importing_torch():  # --help does not need it
            from utils.teaching.teach import teach
            from utils.teaching.teacher import Wish
        kind = next(name for name in KINDS if getattr(args, name))
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
