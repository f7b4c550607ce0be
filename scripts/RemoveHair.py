"""Take the hair off pictures of skin: the same tree of images comes out, with hairs painted over.

Hairs are found by black-hat morphology (dark, thin and long; nevi and a lesion's dots stay) and filled in from what
is beside them. An image in which no hair is found is copied byte for byte, and so is one below 64 pixels, on which
a hair is not told from noise. Of the others only pixels are kept, with 8 bits a channel; JPEG is written with
quality 95.

IN is a folder of images, or one that holds ISIC 2024's train-image.hdf5: of that OUT becomes what the recipes
take as data.root, with train-image/image/ISIC_ID.jpg and train-metadata.csv.

Beside OUT appear OUT_hair.csv (the share of hair of each image) and OUT_hair.png (a dozen images before and after):
look at it before you train on OUT. The same command continues an interrupted run. What cannot be read is reported
and left out, the rest finish, and the exit code is then 1.

  python scripts/RemoveHair.py --inpath raw/lesions --outpath data/lesions
  python scripts/RemoveHair.py --inpath raw/isic2024 --outpath data/isic --jobs 8
"""

import argparse
import csv
import os
import shutil
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from datasets.decoding import decode
from datasets.hair import CONTRAST, find_hair, paint_over
from datasets.isic import METADATA
from datasets.raw_images import RawImages
from utils.command import run_command
from utils.skin.sheets import cell, write_sheet

COLUMNS = ("image", "hair", "contrast")
PICTURED = 12
BLOCK = 64  # images in work at once, per job
SETTINGS = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"quality": 95}}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--inpath", required=True, type=Path, help="folder of images, or of train-image.hdf5")
    add("--outpath", required=True, type=Path, help="folder to write the same tree to")
    help_contrast = "how much darker than beside it hair is, of 255: less finds more, and more that is no hair"
    add("--contrast", type=float, default=CONTRAST, help=f"{help_contrast} (default: {CONTRAST:g})")
    add("--jobs", type=int, help="threads (default: one per core)")
    add("--overwrite", action="store_true", help="treat images again that are in OUT")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    interrupted = "interrupted; the same command continues where it stopped"
    return run_command("RemoveHair", lambda: remove_hair(args), interrupted)


def remove_hair(args: argparse.Namespace) -> int:
    """Treat what is not in OUT yet, draw the sheet, and print the summary."""
    started = time.monotonic()
    source, target = args.inpath.resolve(), args.outpath.resolve()
    if not 0 < args.contrast < 255:
        raise ValueError(f"--contrast {args.contrast:g}: give a gray value between 0 and 255, such as {CONTRAST:g}")
    if args.jobs is not None and args.jobs < 1:
        raise ValueError(f"--jobs {args.jobs}: give at least 1")
    if source == target or source in target.parents or target in source.parents:
        raise ValueError(f"--outpath {args.outpath} and --inpath {args.inpath} lie in each other: write elsewhere")
    images = RawImages(source)
    for line in [*(f"note: {note}" for note in images.notes), *images.bad]:
        print(line)
    target.mkdir(parents=True, exist_ok=True)
    table = target.with_name(f"{target.name}_hair.csv")
    done = {} if args.overwrite else read_table(table, args.contrast)
    done = {name: share for name, share in done.items() if name in set(images.names) and (target / name).is_file()}
    write_table(table, done, args.contrast)
    if (source / METADATA).is_file() and not (target / METADATA).is_file():
        shutil.copyfile(source / METADATA, target / METADATA)
    left = [name for name in images.names if name not in done]
    kept, bad = len(done), len(images.bad)
    cv2.setNumThreads(1)  # as many images at once as there are threads
    with table.open("a", newline="") as lines:
        writer = csv.writer(lines, lineterminator="\n")
        for name, outcome in work(images, left, target, args):
            if isinstance(outcome, ValueError):
                tqdm.write(str(outcome))
                bad += 1
            else:
                done[name] = outcome
                writer.writerow((name, f"{outcome:.5f}", f"{args.contrast:g}"))
    sheet = target.with_name(f"{target.name}_hair.png")
    if done:
        draw(sheet, images, target, choose(done), args.contrast)
    summarize(done, kept, bad, time.monotonic() - started, target, table, sheet)
    return 1 if bad else 0


def read_table(file: Path, contrast: float) -> dict[str, float]:
    """The share of hair of each image treated before. Raises ValueError when that was with another contrast."""
    if not file.is_file():
        return {}
    with file.open(newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row["contrast"]]  # a killed run may leave half a line
    other = sorted({row["contrast"] for row in rows} - {f"{contrast:g}"})
    if other:
        raise ValueError(f"{file}: was made with --contrast {other[0]}: give the same, another OUT, or --overwrite")
    return {row["image"]: float(row["hair"]) for row in rows}


def write_table(file: Path, shares: dict[str, float], contrast: float) -> None:
    temporary = file.with_name(f".{file.name}.partial")
    with temporary.open("w", newline="") as lines:
        writer = csv.writer(lines, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows((name, f"{share:.5f}", f"{contrast:g}") for name, share in shares.items())
    temporary.replace(file)


def work(images: RawImages, names: Sequence[str], target: Path, args: argparse.Namespace) -> Any:
    """Treat `names`; yields each with its share of hair, or with what is wrong with it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    jobs = args.jobs or cores

    def treat(name: str) -> float | ValueError:
        try:
            return treat_image(images.read(name), target / name, f"{images.root / name}", args.contrast)
        except ValueError as error:
            return error

    bar = tqdm(total=len(names), unit="image", desc="removing hair", disable=None)  # None: only on a terminal
    with bar, ThreadPoolExecutor(jobs) as pool:  # Pillow and OpenCV work without Python's lock
        for start in range(0, len(names), BLOCK * jobs):
            block = names[start : start + BLOCK * jobs]
            for name, outcome in zip(block, pool.map(treat, block), strict=True):
                yield name, outcome
                bar.update()


def treat_image(encoded: bytes, file: Path, name: str, contrast: float) -> float:
    """Write the image without its hair to `file`, whole or not at all, and return the share of hair."""
    image = decode(encoded, name)
    hair = find_hair(image, contrast)
    if hair.any():
        kind = Image.registered_extensions()[file.suffix.lower()]
        buffer = BytesIO()
        Image.fromarray(paint_over(image, hair)).save(buffer, kind, **SETTINGS.get(kind, {}))
        encoded = buffer.getvalue()
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.partial")
    temporary.write_bytes(encoded)
    temporary.replace(file)
    return float(hair.mean())


def choose(shares: dict[str, float]) -> list[str]:
    """A dozen images from the hairiest on, at even steps over those with hair; then those without."""
    ranked = sorted(shares, key=lambda name: (-shares[name], name))
    hairy = [name for name in ranked if shares[name] > 0]
    if len(hairy) <= PICTURED:
        return ranked[:PICTURED]
    return [hairy[round(index)] for index in np.linspace(0, len(hairy) - 1, PICTURED)]


def draw(file: Path, images: RawImages, target: Path, names: Sequence[str], contrast: float) -> None:
    """The sheet: original, hair found, result."""
    cells = []
    for name in names:
        before, after = decode(images.read(name), name), decode(target / name, name)
        marked = np.array(Image.fromarray(before).convert("RGB"))
        hair = find_hair(before, contrast)
        marked[hair] = (255, 0, 0)
        cells.append(cell([before, marked, after], f"{hair.mean():.1%} {name}"))
    write_sheet(file, {"original, hair found, result; with the share of hair": cells}, 2)


def summarize(
    shares: dict[str, float], kept: int, bad: int, seconds: float, target: Path, table: Path, sheet: Path
) -> None:
    """Print what OUT holds now."""
    hairy = [share for share in shares.values() if share > 0]
    print(f"images  {len(shares)} ({len(shares) - kept} treated now, {kept} kept, {bad} bad)")
    typical = f", {np.median(hairy):.2%} of the image in the middle of them, {max(hairy):.2%} at most" if hairy else ""
    print(f"hair    found in {len(hairy)}{typical}; the others are copied as they are")
    print(f"time    {seconds:.1f} s")
    print(f"where   {target}; {table.name}; look at {sheet.name}")


if __name__ == "__main__":
    sys.exit(main())
