"""Count parameters and multiply-accumulates (MACs) of the networks, and measure their milliseconds if asked.

Counting computes nothing and takes a second; --time runs each network on this machine.

  python scripts/OpCounter.py
  python scripts/OpCounter.py --network raunet enet --size 512 --num_classes 3 --time
  python scripts/OpCounter.py --checkpoint runs/kits19_enet/best.ckpt
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.command import run_command


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", nargs="+", metavar="NAME", help="default: all but timm")
    parser.add_argument("--checkpoint", nargs="+", default=[], metavar="FILE", help="networks as trained, instead")
    parser.add_argument(
        "--size",
        type=int,
        help="height and width of the image, a multiple of 32 (segmentation 384; classifiers 224 or what they are for)",
    )
    parser.add_argument(
        "--in_channels",
        type=int,
        help="channels of the image (segmentation 1, classifiers 3); a checkpoint knows its own",
    )
    parser.add_argument(
        "--num_classes",
        type=int,
        default=2,
        help="classes, with background for segmentation (2); a checkpoint knows its own",
    )
    parser.add_argument("--time", action="store_true", help="also measure milliseconds per image, batch 1, fp32")
    parser.add_argument("--device", help="where --time measures (default: a GPU where there is one)")
    arguments = parser.parse_args(argv)
    if arguments.size is not None and (arguments.size < 32 or arguments.size % 32):
        parser.error(f"--size must be a positive multiple of 32, not {arguments.size}")

    def work() -> int:
        from utils.evaluation.size_table import count  # it loads torch, which --help does not need

        return count(arguments)

    return run_command("OpCounter", work)


if __name__ == "__main__":
    sys.exit(main())
