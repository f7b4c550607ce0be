"""Take the hair off pictures of skin: the same tree of images comes out, with hairs painted over.

Hairs are found by black-hat morphology (dark, thin and long; nevi and a lesion's dots stay) and filled in from what
is beside them. An image in which no hair is found is copied byte for byte, and so is one below 64 pixels, on which
a hair cannot be distinguished from noise. Of the others only pixels are kept, with 8 bits a channel; JPEG is written
with quality 95.

IN is a folder of images, or one that holds ISIC 2024's train-image.hdf5: of that OUT becomes what the recipes
take as data.root, with train-image/image/ISIC_ID.jpg and train-metadata.csv.

Beside OUT appear OUT_hair.csv (the share of hair of each image) and OUT_hair.png (a dozen images before and after):
look at it before you train on OUT. The same command continues an interrupted run, and treats again what changed in IN.
What cannot be read is reported and left out, the rest finish, and the exit code is then 1. Images are written upright
where hair was painted over, as their EXIF orientation says. A file that is not RemoveHair's is never replaced.

  python scripts/skin/RemoveHair.py --inpath raw/lesions --outpath data/lesions
  python scripts/skin/RemoveHair.py --inpath raw/isic2024 --outpath data/isic --jobs 8
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from utils.command import run_command


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--inpath", required=True, type=Path, help="folder of images, or of train-image.hdf5")
    add("--outpath", required=True, type=Path, help="folder to write the same tree to")
    help_contrast = "how much darker than beside it hair is, of 255: less finds more, and more that is not hair"
    add("--contrast", type=float, default=12.0, help=f"{help_contrast} (default: 12)")
    add("--jobs", type=int, help="threads (default: one per core)")
    add("--overwrite", action="store_true", help="treat images again that are in OUT")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    interrupted = "interrupted; the same command continues where it stopped"

    def work() -> int:
        from utils.skin.hair_removal import remove_hair  # it loads OpenCV, which --help does not need

        return remove_hair(args)

    return run_command("RemoveHair", work, interrupted)


if __name__ == "__main__":
    sys.exit(main())
