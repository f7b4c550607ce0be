"""Distills a teacher into a small student from scans that nobody labeled, in one command.

The scans are sliced, the teacher answers them, the student learns its answers, is tested on scans that it has not seen
(how well it agrees with its teacher), and is exported. Each stage is a command of this project, printed so that it can
be run by hand. The same command goes on where it was stopped: a stage is done once what it writes last is there. The
teacher is any that TeachWith.py takes:

  python scripts/Distill.py --teacher runs/kits19_raunet --scans raw/scans --student enet --output distilled/enet
  python scripts/Distill.py --nnunet nnUNet_results/Dataset220_KiTS/nnUNetTrainer__nnUNetPlans__3d_fullres \\
    --scans raw/scans --output distilled/nnunet
  python scripts/Distill.py --onnx net.onnx --sidecar net.yaml --seen seen.json --scans raw/scans --output distilled/net
  python scripts/Distill.py --maps total --only kidney_left kidney_right --allow_leak --scans raw/scans \\
    --output distilled/kidneys

Out: slices/ (SliceMaker.py), maps/ (TeachWith.py), student.yaml, run/ (train_kd.py), export/ (export.py)
"""

import argparse
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.command import check_numbers, importing_torch, make_parser, run_command
from utils.teaching.flags import add_teacher

STAGES = {
    "slices": "scripts/SliceMaker.py",
    "maps": "scripts/TeachWith.py",
    "training": "train_kd.py",
    "export": "scripts/export.py",
}


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--scans", required=True, type=Path, help="folder of NIfTI files or DICOM series")
    help_modality = "of NIfTI files (default: that of a checkpoint, else CT)"
    add("--modality", choices=("CT", "MR"), help=help_modality)
    add("--student", default="enet", help="network of the student (default: enet)")
    add("--output", required=True, type=Path, help="folder of all that is made")
    add("--epochs", type=int, help="of the student (default: by the number of slices, as Plan.py chooses them)")
    add("--seed", type=int, default=0, help="of the split and of the training (default: 0)")
    add("--jobs", type=int, help="worker processes of SliceMaker.py (default: one per core)")
    add_teacher(parser, own="--teacher")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)

    def work() -> int:
        check_numbers(args, epochs=1, seed=0, jobs=1)
        with importing_torch():  # --help and a wrong flag do not need it
            from utils.planning.distilling import distill
        return distill(args, STAGES)

    return run_command("Distill", work, "stopped; the same command goes on from here")


if __name__ == "__main__":
    sys.exit(main())
