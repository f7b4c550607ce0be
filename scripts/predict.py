"""Predict with checkpoints: CT and MR volumes to label volumes on their own grid, images to a table of classes.

A checkpoint knows its network, window and labels; the predictions are those of validation. A bad case is reported,
the others are finished, and the exit status is then 1. A case is written completely or not at all, nothing is
overwritten unasked, and a second run continues where the first stopped.

  python scripts/predict.py --checkpoint runs/student/best.ckpt --input case.nii.gz --output predictions
  python scripts/predict.py --checkpoint runs/student --input FOLDER --output predictions --largest kidney
  python scripts/predict.py --checkpoint a.ckpt b.ckpt --input cases.csv --output predictions --flip --probabilities
  python scripts/predict.py --checkpoint runs/student --input DICOM_FOLDER --output predictions --mha

In:  one .nii or .nii.gz; a folder of them, without labels such as a_seg.nii.gz beside a.nii.gz (of all folders below:
     DICOM series, imaging.nii.gz as in KiTS, ct.nii.gz or mri.nii.gz as TotalSegmentator's data, volume-N.nii as in
     LiTS); a CSV with the columns case and image (a path from the CSV's folder). For a checkpoint that classifies: an
     image or a folder of images.
Out: <case>.nii.gz, uint8 with the checkpoint's class numbers (1 is the first of its class names; task tumor: 1 tumor);
     shape, affine, sform and qform with their codes and units are those of the source. predictions.json says for each
     case what made it, the volume of each class in ml, and the seconds of each stage. Images: predictions.csv.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.command import importing_torch, run_command
from utils.prediction.flags import build_parser


def main(argv: list[str] | None = None) -> int:
    args = build_parser(__doc__).parse_args(argv)
    interrupted = "interrupted; the same command continues where it stopped"

    def work() -> int:
        with importing_torch():  # --help does not need it
            from utils.prediction.run import predict

        return predict(args)

    return run_command("predict", work, interrupted)


if __name__ == "__main__":
    sys.exit(main())
