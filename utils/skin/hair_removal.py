"""Takes the hair off every image of a folder, draws what was done, and sums it up."""

from __future__ import annotations

import argparse
import filecmp
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from datasets.files import alone_in, replacing
from datasets.fingerprints import digest
from datasets.images.decoding import decode
from datasets.images.isic import METADATA
from datasets.images.raw_images import RawImages
from utils.evaluation.drawing import INK, captioned, contact_sheet, write_png
from utils.machine import cores
from utils.skin.hair import CONTRAST, find_hair, paint_over
from utils.skin.hair_table import HairTable

PICTURED = 12
BLOCK = 64  # images in work at once, per job
SETTINGS = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"quality": 95}}


def check(args: argparse.Namespace) -> None:
    """Raise ValueError for what cannot be, before anything is written."""
    source, target = args.inpath.resolve(), args.outpath.resolve()
    if not 0 < args.contrast < 255:
        raise ValueError(f"--contrast {args.contrast:g}: give a gray value between 0 and 255, such as {CONTRAST:g}")
    if args.jobs is not None and args.jobs < 1:
        raise ValueError(f"--jobs {args.jobs}: give at least 1")
    if source == target or source in target.parents or target in source.parents:
        raise ValueError(f"--outpath {args.outpath} and --inpath {args.inpath} lie in each other: write elsewhere")


def remove_hair(args: argparse.Namespace) -> int:
    """Treat what is not in OUT yet, draw the sheet, and print the summary."""
    check(args)
    with alone_in(args.outpath):
        return _remove_hair(args)


def _remove_hair(args: argparse.Namespace) -> int:
    started = time.monotonic()
    source, target = args.inpath.resolve(), args.outpath.resolve()
    sheet, table_file = (target.with_name(f"{target.name}_hair.{kind}") for kind in ("png", "csv"))
    if sheet.exists() and not table_file.exists():
        raise ValueError(f"{sheet}: is there without {table_file.name}, so not RemoveHair's: choose another --outpath")
    images = RawImages(source)
    for line in [*(f"note: {note}" for note in images.notes), *images.bad]:
        print(line)
    table = HairTable(table_file, args.contrast, args.overwrite)
    done = unchanged(images, target, table)
    kept, bad = len(done), list(images.bad)
    copy_metadata(source / METADATA, target / METADATA)
    table.write()
    cv2.setNumThreads(1)  # as many images at once as there are threads
    for name, outcome in work(images, [name for name in images.names if name not in done], target, table, args):
        if isinstance(outcome, ValueError):
            tqdm.write(str(outcome))
            bad.append(str(outcome))
        else:
            done[name] = outcome
    table.write()
    for name in sorted(table.rows.keys() - set(images.names)):
        if (target / name).exists():
            bad.append(f"{target / name}: was made of an image that IN holds no longer: remove it")
            print(bad[-1])
    if done:
        draw(sheet, images, target, choose(done), args.contrast)
    summarize(done, kept, bad, time.monotonic() - started, target, table_file, sheet)
    return 1 if bad else 0


def unchanged(images: RawImages, target: Path, table: HairTable) -> dict[str, float]:
    """The share of hair of each image that was treated before and is the same now."""

    def same(name: str) -> bool:
        try:
            return table.rows[name].source == digest(images.read(name))
        except ValueError:
            return False  # it is reported when its turn comes

    before = [name for name in images.names if name in table.rows and (target / name).is_file()]
    with ThreadPoolExecutor() as pool:
        return {name: table.rows[name].hair for name, kept in zip(before, pool.map(same, before), strict=True) if kept}


def copy_metadata(source: Path, target: Path) -> None:
    """Raises ValueError where other metadata are in OUT."""
    if not source.is_file():
        return
    if not target.exists():
        with replacing(target) as partial:
            shutil.copyfile(source, partial)
    elif not filecmp.cmp(source, target, shallow=False):
        raise ValueError(f"{target}: differs from {source}: choose another --outpath, or remove it")


def work(
    images: RawImages, names: Sequence[str], target: Path, table: HairTable, args: argparse.Namespace
) -> Iterator[tuple[str, float | ValueError]]:
    """Treat `names`; yields each with its share of hair, or with what is wrong with it."""
    jobs = args.jobs or cores()

    def treat(name: str) -> float | ValueError:
        file = target / name
        try:
            if os.path.lexists(file) and name not in table.rows:
                raise ValueError(f"{file}: is there, and not RemoveHair's: move it away, or choose another --outpath")
            encoded = images.read(name)
            hair, result = without_hair(encoded, file, f"{images.root / name}", args.contrast)
            file.parent.mkdir(parents=True, exist_ok=True)
            with replacing(file) as partial:
                partial.write_bytes(result)
                table.record(name, hair, digest(encoded))  # before the file is there: without a row it is another's
            return hair
        except ValueError as error:
            return error

    bar = tqdm(total=len(names), unit="image", desc="removing hair", disable=None)  # None: only on a terminal
    with bar, ThreadPoolExecutor(jobs) as pool:  # Pillow and OpenCV work without Python's lock
        for start in range(0, len(names), BLOCK * jobs):
            block = names[start : start + BLOCK * jobs]
            for name, outcome in zip(block, pool.map(treat, block), strict=True):
                yield name, outcome
                bar.update()


def without_hair(encoded: bytes, file: Path, name: str, contrast: float) -> tuple[float, bytes]:
    """The share of hair, and the image without it, encoded as the ending of `file` says."""
    image = decode(encoded, name)
    hair = find_hair(image, contrast)
    if not hair.any():
        return 0.0, encoded
    kind = Image.registered_extensions()[file.suffix.lower()]
    buffer = BytesIO()
    Image.fromarray(paint_over(image, hair)).save(buffer, kind, **SETTINGS.get(kind, {}))
    return float(hair.mean()), buffer.getvalue()


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
        cells.append(captioned([before, marked, after], [[(f"{hair.mean():.1%} {name}", INK)]]))
    write_png(file, contact_sheet({"original, hair found, result; with the share of hair": cells}, 2))


def summarize(
    shares: dict[str, float], kept: int, bad: Sequence[str], seconds: float, target: Path, table: Path, sheet: Path
) -> None:
    """Print what OUT holds now."""
    hairy = [share for share in shares.values() if share > 0]
    print(f"images  {len(shares)} ({len(shares) - kept} treated now, {kept} kept, {len(bad)} bad)")
    typical = f", {np.median(hairy):.2%} of the image in the middle of them, {max(hairy):.2%} at most" if hairy else ""
    print(f"hair    found in {len(hairy)}{typical}; the others are copied as they are")
    print(f"time    {seconds:.1f} s")
    print(f"where   {target}; {table.name}; look at {sheet.name}")
    if bad:
        print(f"bad     {bad[0]}{f'; and {len(bad) - 1} more, above' if len(bad) > 1 else ''}")
