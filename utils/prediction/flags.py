"""The flags of scripts/predict.py, by which a prediction is also timed in a process of its own."""

import argparse
from pathlib import Path

ENGINES = ("auto", "torch", "onnxruntime", "openvino")


def build_parser(description: str | None = None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
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
    help_locate = "run folder of a locator: a small network that finds the box to predict (see its docs page)"
    add("--locate", type=Path, metavar="LOCATOR", help=help_locate)
    add("--flip", action="store_true", help="average over the slice and its mirror images: four times the work")
    help_largest = "keep the largest component of these classes (none named: of each); the rest becomes background"
    add("--largest", nargs="*", metavar="CLASS", help=help_largest)
    add("--minimum_volume", type=float, default=0.0, metavar="ML", help="remove components smaller than this")
    add("--channel", type=int, help="which channel of a multi-channel image, counted from 0")
    help_axis = "the file's axis to slice along (default: the most axial one; 2 for checkpoints trained on ACDC)"
    add("--slice_axis", type=int, choices=(0, 1, 2), help=help_axis)
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: a GPU where there is one")
    help_precision = "default: as the first checkpoint was trained; an ONNX file has a precision of its own"
    help_engine = (
        "what runs an exported folder or .onnx file (default: auto, the fastest of those installed, tried once on each "
        "machine); checkpoints are torch's"
    )
    add("--engine", choices=ENGINES, default="auto", help=help_engine)
    add("--precision", choices=("auto", "32-true", "bf16-mixed", "16-mixed"), help=help_precision)
    add("--batch_size", type=int, help="slices at a time (default: 4, on a GPU 16)")
    add("--jobs", type=int, default=1, help="threads that read ahead, and as many that write behind (default: 1)")
    add("--memory", type=float, metavar="GB", help="most that one case may take (default: half of this machine's)")
    add("--overwrite", action="store_true", help="replace what other checkpoints, options or programs made")
    return parser
