"""Predict with checkpoints: CT and MR volumes to label volumes on their own grid, images to a table of classes.

A checkpoint knows its network, window and labels; what comes out is what validation sees. A bad case is reported and
the rest finish, and the exit code is then 1. A case's files are there whole or not at all, nothing is overwritten
unasked, and a second run continues where the first stopped.

  python scripts/predict.py --checkpoint runs/student/best.ckpt --input case.nii.gz --output predictions
  python scripts/predict.py --checkpoint runs/student --input FOLDER --output predictions --largest kidney
  python scripts/predict.py --checkpoint a.ckpt b.ckpt --input cases.csv --output predictions --flip --probabilities
  python scripts/predict.py --checkpoint runs/student --input DICOM_FOLDER --output predictions --mha

In:  one .nii or .nii.gz; a folder of them, without labels such as a_seg.nii.gz beside a.nii.gz (of all folders below:
     DICOM series, imaging.nii.gz as in KiTS, volume-N.nii as in LiTS); a CSV with the columns case and image (a path
     from the CSV's folder). For a checkpoint that classifies: an image or a folder of images.
Out: <case>.nii.gz, uint8 with the checkpoint's class numbers (1 is the first of its class names; task tumor: 1 tumor);
     shape, affine, sform and qform with their codes and units are those of the source. predictions.json says for each
     case what made it, the volume of each class in ml, and the seconds of each stage. Images: predictions.csv.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.command import run_command


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    help_checkpoint = (
        "best.ckpt, the folder of a run, or what export.py wrote: its folder, .safetensors, .onnx; "
        "of several the mean of their probabilities is taken"
    )
    add("--checkpoint", required=True, nargs="+", type=Path, help=help_checkpoint)
    add("--input", required=True, type=Path, help="what to predict, see above")
    add("--output", required=True, type=Path, help="folder of the predictions")
    help_probabilities = (
        "also write <case>_probabilities.nii.gz, float32, one volume for each class along a fourth axis"
    )
    add("--probabilities", action="store_true", help=help_probabilities)
    help_mha = "for DICOM also write <case>.mha: labels with the series' own LPS origin, spacing and direction"
    add("--mha", action="store_true", help=help_mha)
    add("--flip", action="store_true", help="average over the slice and its mirror images: four times the work")
    help_largest = "keep the largest component of these classes (none named: of each); the rest becomes background"
    add("--largest", nargs="*", metavar="CLASS", help=help_largest)
    add("--minimum_volume", type=float, default=0.0, metavar="ML", help="remove components smaller than this")
    add("--channel", type=int, help="which channel of a multi-channel image, counted from 0")
    help_axis = "the file's axis to slice along (default: the most axial one; 2 for checkpoints trained on ACDC)"
    add("--slice_axis", type=int, choices=(0, 1, 2), help=help_axis)
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: a GPU where there is one")
    help_precision = "default: as the first checkpoint was trained; an ONNX file has a precision of its own"
    add("--precision", choices=("auto", "32-true", "bf16-mixed", "16-mixed"), help=help_precision)
    add("--batch_size", type=int, help="slices at a time (default: 4, on a GPU 16)")
    add("--jobs", type=int, default=1, help="threads that read ahead, and as many that write behind (default: 1)")
    add("--memory", type=float, metavar="GB", help="most that one case may take (default: half of this machine's)")
    add("--overwrite", action="store_true", help="replace what other checkpoints, options or programs made")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    interrupted = "interrupted; the same command continues where it stopped"

    def work() -> int:
        from utils.prediction.run import predict  # it loads torch, which --help does not need

        return predict(args)

    return run_command("predict", work, interrupted)


if __name__ == "__main__":
    sys.exit(main())
