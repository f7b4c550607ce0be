"""Export a checkpoint for use: weights, ONNX, int8, ExportedProgram, model card; scores, size and speed of each.

  python scripts/export.py --checkpoint runs/student --output exported/student
  python scripts/export.py --checkpoint runs/student/best.ckpt --output exported/student --formats safetensors onnx

Out: student.safetensors + student.json   weights alone (no teacher), and what is needed to use them
     student.onnx                         one file with its description; any batch, height and width if possible
     student_int8.onnx                    8-bit integers, calibrated on images of the train split
     student.pt2                          PyTorch's ExportedProgram
     README.md                            model card
The folder is written whole or not at all. A file whose logits differ from PyTorch's by 1e-4 of the largest is refused.
Scores are of the val split, never of test; without the data of the run there is no int8 and nothing is measured.
predict.py --checkpoint takes the folder, the .safetensors and both .onnx files.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.command import run_command
from utils.exporting import FORMATS


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--checkpoint", required=True, type=Path, help="folder of a run (then best.ckpt), or a checkpoint")
    add("--output", required=True, type=Path, help="folder to make")
    add("--formats", nargs="+", choices=FORMATS, help="default: all, int8 only where the train split is there")
    add("--calibration", type=int, default=64, metavar="N", help="images of the train split for int8 (default: 64)")
    add("--val_cases", type=int, metavar="N", help="score on so many val cases, evenly chosen (default: all)")
    add("--data", metavar="ROOT", help="the run's data, if it has moved since the training")
    add("--name", help="of the network, for people (default: the run's folder)")
    add("--license", default="unspecified", metavar="TEXT", help="terms of use (default: unspecified)")
    add("--overwrite", action="store_true", help="replace an earlier export in the same folder")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    return run_command("export", lambda: export_checkpoint(args))


def export_checkpoint(args: argparse.Namespace) -> int:
    """Export as the flags say, and print the summary."""
    from utils.exporting.assembly import Request, export  # they load torch, which --help does not need
    from utils.exporting.summary import summarize

    for name in ("calibration", "val_cases"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name} {value}: give 1 or more")
    request = Request(
        checkpoint=args.checkpoint,
        output=args.output,
        formats=tuple(args.formats or FORMATS),
        formats_required=args.formats is not None,
        calibration=args.calibration,
        val_cases=args.val_cases,
        data=args.data,
        name=args.name,
        license=args.license,
        overwrite=args.overwrite,
    )
    print(summarize(export(request), args.output))
    return 0


if __name__ == "__main__":
    sys.exit(main())
