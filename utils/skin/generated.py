"""Judges every generated image beside the real ones, copies what is kept, and sums it up."""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import StringIO
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from tqdm import tqdm

from datasets.files import alone_in, keep_apart, write_text
from datasets.images.decoding import decode
from datasets.images.raw_images import image_files
from datasets.images.transforms import Preparation
from networks import NETWORKS
from utils.evaluation.drawing import INK, captioned, contact_sheet, write_png
from utils.recipe.registry import build
from utils.recipe.schema import Training
from utils.skin.embeddings import classifier, embed
from utils.skin.perceptual_filter import Limits, Verdict, judge
from utils.training.launch import launch

COLUMNS = ("image", "verdict", "distance", "nearest_real", "nearest_distance", "nearest_held_out", "held_out_distance")
RESULTS = ("distances.csv", "sheet.png", "kept", "kept.txt")
PICTURED = 8
TAPS = ("encoder1", "encoder2", "encoder3", "encoder4", "embedding")


def filter_generated(args: argparse.Namespace) -> int:
    """Embed, judge, write, and print the summary."""
    keep_apart(args.outpath, [args.real, args.generated, *args.held_out])
    with alone_in(args.outpath):
        return _filter_generated(args)


def _filter_generated(args: argparse.Namespace) -> int:
    started = time.monotonic()
    out = args.outpath
    refuse_present(out, args.overwrite)
    if args.batch_size < 1:
        raise ValueError(f"--batch_size {args.batch_size}: give at least 1")
    if args.weights and not args.timm:
        raise ValueError("--weights belong to --timm: a --checkpoint has its own")
    folders = {"real": [args.real], "generated": [args.generated], "held out": args.held_out}
    scans = {name: [image_files(folder) for folder in given] for name, given in folders.items()}
    files = {name: [file for found in each for file in found.files] for name, each in scans.items()}
    unreached = [line for each in scans.values() for found in each for line in found.bad]
    for line in [*(f"note: {note}" for each in scans.values() for found in each for note in found.notes), *unreached]:
        print(line)
    network, preparation = feature_network(args)
    taps = args.tap or [name for name in TAPS if name in getattr(network, "taps", ())]
    fabric = launch(Training(accelerator=args.accelerator, precision="32-true"))
    good, points = {}, {}
    for name, listed in files.items():
        good[name], points[name] = embed_files(fabric, network, preparation, taps, name, listed, args.batch_size)
    if not good["generated"]:
        raise ValueError(f"{args.generated}: none of its images can be read: give those that a generator made")
    compared = [points[name] for name in ("generated", "real", "held out")]
    verdicts, limits = judge(*compared, args.quantiles, args.neighbors)
    rows = list(zip(good["generated"], verdicts, strict=True))
    draw(out / "sheet.png", rows, good["real"], good["held out"])
    kept = [file for file, verdict in rows if verdict.kind == "kept"]
    with keeping(kept, args.generated, out, args.list):
        write_table(out / "distances.csv", rows, good["real"], good["held out"], args.generated)
    bad = {name: len(files[name]) - len(good[name]) for name in files}
    summarize(rows, good, bad, limits, args, time.monotonic() - started)
    return 1 if any(bad.values()) or unreached else 0


def feature_network(args: argparse.Namespace) -> tuple[nn.Module, Preparation]:
    """The network, and how an image is prepared for it."""
    if args.checkpoint:
        return classifier(args.checkpoint)
    section = {"name": "timm", "model": args.timm}
    section |= {"checkpoint": args.weights} if args.weights else {"pretrained": True}
    try:
        network = build(NETWORKS, section, "--timm", num_classes=1000, in_channels=3)
    except ValueError as error:
        raise ValueError(f"{error} (here: --weights FILE)" if not args.weights else error) from None
    given = network.model.pretrained_cfg
    return network, Preparation(given["input_size"][-1], 3, tuple(given["mean"]), tuple(given["std"]))


def embed_files(
    fabric: Fabric,
    network: nn.Module,
    preparation: Preparation,
    taps: Sequence[str],
    name: str,
    files: list[Path],
    batch_size: int,
) -> tuple[list[Path], np.ndarray]:
    """The files that are images, and their embeddings (N, D); the others are reported."""
    good: list[Path] = []

    def read(file: Path) -> Tensor | None:
        try:
            return preparation.normalize(preparation.resize(decode(file, str(file))))
        except ValueError as error:
            tqdm.write(str(error))
            return None

    def batches() -> Iterator[Tensor]:
        with ThreadPoolExecutor() as pool:
            for start in range(0, len(files), batch_size):
                block = files[start : start + batch_size]
                read_now = [(file, image) for file, image in zip(block, pool.map(read, block), strict=True)]
                good.extend(file for file, image in read_now if image is not None)
                if images := [image for _, image in read_now if image is not None]:
                    yield torch.stack(images)

    steps = -(-len(files) // batch_size)
    progress = tqdm(embed(fabric, network, taps, batches()), name, steps, unit="batch", disable=None)
    embeddings = [embedding.numpy() for embedding, _ in progress]
    return good, np.concatenate(embeddings) if embeddings else np.empty((0, 1))


def refuse_present(out: Path, overwrite: bool) -> None:
    """Raise ValueError for an earlier result, or with `overwrite` for what is not one."""
    there = [out / name for name in RESULTS if os.path.lexists(out / name)]
    if there and not overwrite:
        raise ValueError(f"{out} holds an earlier result: name another --outpath, or pass --overwrite")
    table, ours = out / "distances.csv", set()
    if table.is_file():
        with table.open(newline="", encoding="utf-8", errors="surrogateescape") as lines:
            reader = csv.reader(lines)
            if next(reader, None) == list(COLUMNS):
                there, ours = [], {row[0] for row in reader if row}
    copies = [file for file in (out / "kept").rglob("*") if not file.is_dir()]
    there += [file for file in copies if file.relative_to(out / "kept").as_posix() not in ours]
    if there:
        raise ValueError(f"{there[0]}: is there, and not FilterGenerated's: move it away, or choose another --outpath")


@contextmanager
def keeping(files: Sequence[Path], root: Path, out: Path, as_list: bool) -> Iterator[None]:
    """Copy what is kept into OUT/kept, or list it in OUT/kept.txt; there when the block has ended, whole or not at all.

    In the block the table is written: an earlier result is removed only beside it.
    """
    names = [file.relative_to(root) for file in files]
    partial = out / ".kept.partial"
    if partial.is_dir():
        shutil.rmtree(partial)
    partial.unlink(missing_ok=True)
    if as_list:
        listed = "".join(f"{name.as_posix()}\n" for name in names)
        partial.write_text(listed, encoding="utf-8", errors="surrogateescape")
    else:
        partial.mkdir()
        for file, name in zip(files, names, strict=True):
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, partial / name)
    yield
    if (out / "kept").is_dir():
        shutil.rmtree(out / "kept")
    (out / "kept.txt").unlink(missing_ok=True)
    partial.rename(out / ("kept.txt" if as_list else "kept"))


def write_table(
    file: Path, rows: Sequence[tuple[Path, Verdict]], real: Sequence[Path], held_out: Sequence[Path], root: Path
) -> None:
    """CSV with a row a generated image; appears whole or not at all."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for image, said in rows:
        row = [image.relative_to(root).as_posix(), said.kind, f"{said.distance:.6g}"]
        row += [real[said.nearest], f"{said.nearest_distance:.6g}"]
        held = said.nearest_held_out is not None
        row += [held_out[said.nearest_held_out], f"{said.held_out_distance:.6g}"] if held else ["", ""]
        writer.writerow(row)
    write_text(file, text.getvalue())


def draw(file: Path, rows: Sequence[tuple[Path, Verdict]], real: Sequence[Path], held_out: Sequence[Path]) -> None:
    """The sheet: generated images of each verdict, the nearest real one beside each."""

    def pairs(kind: str, most_distant: bool) -> list:
        chosen = sorted((row for row in rows if row[1].kind == kind), key=lambda row: row[1].distance)
        cells = []
        for image, said in (chosen[::-1] if most_distant else chosen)[:PICTURED]:
            other, distance = real[said.nearest], said.distance
            if kind == "copy":
                distance = said.nearest_distance
            elif kind == "held-out copy":
                other, distance = held_out[said.nearest_held_out], said.held_out_distance
            shown = [decode(picture, str(picture)) for picture in (image, other)]
            cells.append(captioned(shown, [[(f"{distance:.3g} {image.name}", INK)]]))
        return cells

    parts = {
        "kept, the nearest first (each: generated, its nearest real image; mean distance)": pairs("kept", False),
        "kept, the furthest first": pairs("kept", True),
        "rejected as unlike, the furthest first": pairs("unlike", True),
        "rejected as copies of a real image (beside it; distance to it)": pairs("copy", False),
        "rejected as copies of a held-out image (beside it; distance to it)": pairs("held-out copy", False),
    }
    write_png(file, contact_sheet(parts, 4))


def summarize(
    rows: Sequence[tuple[Path, Verdict]],
    good: dict[str, list[Path]],
    bad: dict[str, int],
    limits: Limits,
    args: argparse.Namespace,
    seconds: float,
) -> None:
    """Print what was found, on one screen."""
    counts = Counter(verdict.kind for _, verdict in rows)
    unread = sum(bad.values())
    print(f"images    {', '.join(f'{len(files)} {name}' for name, files in good.items())}; {unread} could not be read")
    print(f"limits    real images' own distances: a copy below {limits.low:.4g}, unlike above {limits.high:.4g}")
    share = counts["kept"] / max(1, len(rows))
    print(f"kept      {counts['kept']} ({share:.0%}); rejected {counts['unlike']} unlike, {counts['copy']} copies")
    if leaked := counts["held-out copy"]:
        print(f"leak      {leaked} copy an image that is held out: the generator has seen val or test")
    elif not args.held_out:
        print("leak      not looked for: name the folders of val and test with --held_out")
    print(f"time      {seconds:.1f} s")
    print(f"where     {args.outpath}: distances.csv, {'kept.txt' if args.list else 'kept/'}; look at sheet.png")
