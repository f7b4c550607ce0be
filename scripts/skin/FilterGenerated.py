"""Keep the generated images of a class that look like its real ones, judged by the features of a network.

An image's distance is its mean distance to the 5 nearest real images, in standardized features (see
utils/skin/perceptual_filter.py). Real images, each compared with the others, give the limits. A generated image that is
further away than 95 % of them is unlike. One that is nearer to a single real image than 99 % of them are is a copy:
re-encoded or with a little noise, it is mostly found; mirrored, it mostly is not. Name the real images of val and test
with --held_out: a copy of one of those in training would leak it, and is counted apart. Only the rest is kept.

The features are those of one of our classifiers (--checkpoint), best trained on these classes, or of a timm model
(--timm vgg16, as published; downloads its ImageNet weights, or reads them from --weights). Early stages are among them:
what the last one makes of noise can look like a lesion to it.

Train on the kept images only where val is a folder of its own: val carved from train would hold some of them.

OUT receives distances.csv (every image, its verdict and nearest real image), sheet.png (look at it) and kept/, a copy
of those that stay. What cannot be read is reported and left out, and the exit code is then 1.

  python scripts/skin/FilterGenerated.py --real data/skin/train/mel --generated raw/made/mel --outpath data/made/mel \\
      --held_out data/skin/val/mel data/skin/test/mel --checkpoint runs/teacher/best.ckpt
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from utils.command import run_command


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--real", required=True, type=Path, help="folder of the class's real training images")
    add("--generated", required=True, type=Path, help="folder of generated images of this class")
    add("--outpath", required=True, type=Path, help="folder to write to")
    add("--held_out", nargs="+", type=Path, default=[], help="folders of the class's real val and test images")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--checkpoint", help="checkpoint of a classifier of ours, or the folder of its run")
    source.add_argument("--timm", metavar="MODEL", help="pretrained timm model, by name (needs timm)")
    add("--weights", help="with --timm: file of its weights, instead of a download")
    help_tap = "features (default: encoder1 to encoder4 and embedding, those that the network has)"
    add("--tap", nargs="+", help=help_tap)
    add("--quantiles", nargs=2, type=float, default=(0.01, 0.95), metavar=("LOW", "HIGH"), help="default: 0.01 0.95")
    add("--neighbors", type=int, default=5, help="real images a distance is the mean of (default: 5)")
    add("--list", action="store_true", help="write kept.txt, the names, instead of copying to kept/")
    add("--batch_size", type=int, default=64, help="images at once (default: 64)")
    add("--accelerator", default="auto", choices=("auto", "cpu", "cuda"), help="default: auto")
    add("--overwrite", action="store_true", help="replace an earlier result in OUT")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    interrupted = "interrupted; nothing is kept yet, run it again"

    def work() -> int:
        from utils.skin.generated import filter_generated  # it loads torch, which --help does not need

        return filter_generated(args)

    return run_command("FilterGenerated", work, interrupted)


if __name__ == "__main__":
    sys.exit(main())
