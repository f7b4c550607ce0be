"""Put 2D slices that are PNG already (as published preprocessing writes them) into the store that training reads.

IN/images/CASE_NUMBER.png and IN/masks/CASE_NUMBER.png (or .PNG): a case is all files of one name before the last
underscore, and a case is a patient. Images are 8- or 16-bit gray. Such files do not say what a gray value is in HU, so
say what 0 and the highest value stood for (--hounsfield 0 255), or store them as MR. Masks hold label values; with one
label whatever is not 0 is it. Slices of a case need not lie beside each other: scores by case are then of the slices
there are.

  python scripts/ImportSlices.py --inpath raw/liver_2d --outpath data/liver --labels liver --hounsfield 0 255
"""

import argparse
import os
import re
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from datasets.files import alone_in, ending, keep_apart, stem
from datasets.images.decoding import UnreadableImageError, opened
from datasets.publishing import Kind, NotOursError
from datasets.scan import scan
from datasets.slices.store import RECORD, SliceRecord, read_manifest, write_catalog, write_json, write_slice
from datasets.splits import SPLITS, split_as_asked, split_patients, split_sha256
from datasets.volumes.reading import INT16
from utils.command import run_command

MANIFEST_FILE = "dataset.json"
IMPORTED = Kind(re.compile(r"\d{4,}\.npz|\.?case\.json(\.partial)?"), lambda folder, name: True, RECORD)  # of a case
NAME = re.compile(r"(?P<case>.+)_(?P<number>\d+)")


@dataclass(frozen=True)
class Pair:
    """A slice and its mask."""

    case: str
    number: int
    image: Path
    mask: Path


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--inpath", required=True, type=Path, help="folder with images/ and masks/")
    add("--outpath", required=True, type=Path, help="folder of the slice store; must not exist")
    add("--labels", required=True, nargs="+", metavar="NAME", help="names of the mask values 1, 2, ...")
    add("--tumor", nargs="*", default=[], metavar="NAME", help="which of them are tumors")
    help_hu = "CT: HU of gray value 0 and of 255 (65535 in 16-bit files); without it the images are stored as MR"
    add("--hounsfield", nargs=2, type=float, metavar=("LOW", "HIGH"), help=help_hu)
    add("--size", type=int, metavar="PIXELS", help="resample slices to PIXELS x PIXELS (default: as they are)")
    add("--split", nargs=3, type=float, default=(0.7, 0.1, 0.2), metavar=("TRAIN", "VAL", "TEST"), help="of patients")
    add("--split_file", type=Path, help="JSON with lists train, val, test of patients, instead of --split")
    add("--fold", type=int, help="which fold, where --split_file is nnU-Net's splits_final.json (default: 0)")
    add("--seed", type=int, default=0, help="of --split (default: 0)")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    return run_command("ImportSlices", lambda: import_slices(args), "interrupted; no store was written, run it again")


def import_slices(args: argparse.Namespace) -> int:
    """Write the store; a bad slice is named and left out, and the exit status is then 1."""
    if os.path.lexists(args.outpath):  # a link that leads nowhere as well
        raise ValueError(f"{args.outpath}: is there already: choose another --outpath")
    if unknown := sorted(set(args.tumor) - set(args.labels)):
        raise ValueError(f"--tumor {unknown[0]}: is not among --labels {' '.join(args.labels)}")
    if len(set(args.labels)) < len(args.labels):
        raise ValueError(f"--labels {' '.join(args.labels)}: give every label a name of its own")
    if args.hounsfield and not INT16.min <= args.hounsfield[0] < args.hounsfield[1] <= INT16.max:
        low, high = args.hounsfield
        raise ValueError(
            f"--hounsfield {low:g} {high:g}: give the lower value first, within {INT16.min} to {INT16.max}"
        )
    if args.size is not None and args.size < 1:
        raise ValueError(f"--size {args.size}: give at least 1 pixel")
    if args.fold is not None and not args.split_file:
        raise ValueError(f"--fold {args.fold}: there is no --split_file to take it from")
    keep_apart(args.outpath, [args.inpath])
    pairs, problems, passed_over = find_pairs(args.inpath)
    for line in passed_over:
        print(line, file=sys.stderr)
    if not pairs:
        raise ValueError(f"{args.inpath}: no images/CASE_NUMBER.png with a mask of that name in masks/")
    patients = sorted({pair.case for pair in pairs})
    if args.split_file:
        split, note = split_as_asked(args.split_file, {patient: patient for patient in patients}, args.fold)
        if note:
            print(note, file=sys.stderr)
    else:
        split = split_patients(patients, args.split, args.seed)
    split_of = {patient: name for name in SPLITS for patient in split[name]}
    if absent := [patient for patient in patients if patient not in split_of]:
        raise ValueError(f"{args.split_file}: {len(absent)} patients are in no list, such as {absent[0]}: add them")
    drawn = {"seed": None, "ratios": None} if args.split_file else {"seed": args.seed, "ratios": list(args.split)}
    manifest = {
        "dataset": args.inpath.name,
        "modality": "CT" if args.hounsfield else "MR",
        "format": "npz",
        "task": "all",
        "labels": {str(value): name for value, name in enumerate(args.labels, start=1)},
        "tumor_labels": [args.labels.index(name) + 1 for name in args.tumor],
        "split_sha256": split_sha256(split),
    }
    partial = args.outpath.absolute().with_name(f".{args.outpath.name}.partial")
    with alone_in(partial):
        remove_unfinished(partial)
        write_json(partial / MANIFEST_FILE, manifest)  # the folder is ours
        records, wrong = write_store(args, partial, pairs, split_of)
        problems += wrong
        for problem in problems:
            print(problem)
        if not records:
            remove_unfinished(partial)
            raise ValueError(f"{args.inpath}: none of {len(pairs)} slices could be read")
        write_catalog(partial, records, {**drawn, **split}, manifest)
        partial.rename(args.outpath)
    counts = {name: [record for record in records if record.split == name] for name in SPLITS}
    parts = [f"{name} {len({r.case for r in mine})} patients, {len(mine)} slices" for name, mine in counts.items()]
    print(f"{len(records)} slices of {len({r.case for r in records})} cases, {len(problems)} problems")
    print(f"  splits  {'; '.join(parts)}\n  where   {args.outpath}")
    return 1 if problems else 0


def remove_unfinished(folder: Path) -> None:
    """Remove what an import that was stopped left in a folder. Raises NotOursError, with nothing removed, for more."""
    entries = [path for path in sorted(folder.iterdir()) if path.name != f".{MANIFEST_FILE}.partial"]
    if any(path.is_file() for path in folder.rglob("*") if path.name != f".{MANIFEST_FILE}.partial"):
        try:
            read_manifest(folder)
        except ValueError:
            raise NotOursError(folder, "carries no record of this program") from None
    files = [path for path in entries if re.fullmatch(r"(split|dataset)\.json|\.?index\.csv(\.partial)?", path.name)]
    cases = [path for path in entries if path not in files]
    for case in cases:
        IMPORTED.check(case, case.name)
    for case in cases:
        IMPORTED.discard(case, case.name)
    for file in sorted(folder.iterdir(), key=lambda path: path.name == MANIFEST_FILE):
        file.unlink()


def write_store(
    args: argparse.Namespace, root: Path, pairs: Sequence[Pair], split_of: dict[str, str]
) -> tuple[list[SliceRecord], list[str]]:
    """Write the slices of all cases; returns their records, and a line for each slice that cannot be used."""
    records: list[SliceRecord] = []
    problems: list[str] = []
    for case in tqdm(sorted({pair.case for pair in pairs}), unit="case", desc="importing", disable=None):
        mine = [pair for pair in pairs if pair.case == case]
        written, wrong = write_case(root, mine, split_of[case], args.hounsfield, len(args.labels), args.size)
        records, problems = records + written, problems + wrong
    return records, problems


def find_pairs(home: Path) -> tuple[list[Pair], list[str], list[str]]:
    """Slices with a mask, in order; a line for each file that cannot be used; a line about what was passed over.

    Images and masks belong together by the names before their endings.
    """
    scans = {kind: scan(home / kind, depth=0) for kind in ("images", "masks")}
    problems = [str(finding) for found in scans.values() for finding in found.findings if finding.bad]
    files: dict[str, dict[str, list[Path]]] = defaultdict(lambda: {"images": [], "masks": []})
    for kind, found in scans.items():
        for file in (*found.keep(_is_png, "ending"), *filter(_is_png, found.unusable)):
            files[stem(file)][kind].append(file)
    pairs: dict[tuple[str, int], Pair] = {}
    for name, found in sorted(files.items()):
        match = NAME.fullmatch(name)
        every = [*found["images"], *found["masks"]]
        if match is None:
            problems += [f"{file}: its name is not CASE_NUMBER.png: rename it" for file in every]
        elif not (found["images"] and found["masks"]):
            other = "masks" if found["images"] else "images"
            problems.append(f"{every[0]}: has no file of that name in {other}: add it, or remove this one")
        elif twice := [file for files_of in found.values() for file in files_of[1:]]:
            problems += [f"{file}: is there in another spelling of its ending: keep one of them" for file in twice]
        elif not any(file in scanned.unusable for scanned in scans.values() for file in every):
            pair = Pair(match["case"], int(match["number"]), found["images"][0], found["masks"][0])
            first = pairs.setdefault((pair.case, pair.number), pair)
            if first is not pair:
                problems.append(f"{pair.image}: is slice {pair.number} of {pair.case}, as is {first.image}: keep one")
    passed_over = [found.summary for found in scans.values() if found.summary]
    return [pairs[key] for key in sorted(pairs)], problems, passed_over


def _is_png(file: Path) -> bool:
    return ending(file) == ".png"


def write_case(
    root: Path,
    pairs: Sequence[Pair],
    split: str,
    hounsfield: Sequence[float] | None,
    labels: int,
    side: int | None,
) -> tuple[list[SliceRecord], list[str]]:
    """Write the slices of one case; their statistics are of the whole case."""
    slices, problems = [], []
    for pair in pairs:
        try:
            image, label = read_pair(pair, hounsfield, labels, side)
            if slices and image.shape != slices[0][1].shape:
                raise ValueError(f"{pair.image}: {image.shape} pixels, the case's others {slices[0][1].shape}")
            slices.append((pair, image, label))
        except (ValueError, OSError) as error:
            problems.append(" ".join(str(error).split()))
    if not slices:
        return [], problems
    case = pairs[0].case
    (root / case).mkdir(parents=True)
    values = np.concatenate([image.ravel() for _, image, _ in slices])
    statistics = (float(values.mean()), float(values.std()), *map(float, np.percentile(values, (0.5, 99.5))))
    records = []
    for index, (_, image, label) in enumerate(slices):
        file = f"{case}/{index:04d}.npz"
        write_slice(root / file, image, label)
        present = tuple(int(value) for value in np.unique(label) if value)
        records.append(SliceRecord(case, case, index, file, split, present, *statistics, root))
    write_json(root / case / RECORD, {"case": case, "sources": [pair.image.name for pair, _, _ in slices]})
    return records, problems


def read_pair(
    pair: Pair, hounsfield: Sequence[float] | None, labels: int, side: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Image (H, W), int16 HU or float32, and label (H, W) uint8; H = W = `side` if given, averaged over areas.

    Raises ValueError for what they cannot be.
    """
    with opened(pair.image, str(pair.image)) as picture:
        if picture.mode not in ("L", "I;16", "I"):
            raise UnreadableImageError(f"{pair.image}: is {picture.mode}, not gray: convert it")
        highest = 255 if picture.mode == "L" else 65535
        shape = picture.size
        picture = picture.convert("F")
        image = np.asarray(picture.resize((side, side), Image.Resampling.BOX) if side else picture)
    with opened(pair.mask, str(pair.mask)) as picture:
        if picture.mode not in ("L", "P", "1"):
            raise UnreadableImageError(f"{pair.mask}: is {picture.mode}, not 8-bit label values: convert it")
        if picture.size != shape:
            raise UnreadableImageError(f"{pair.mask}: {picture.size} pixels, its image {shape}: make them alike")
        label = np.asarray(picture.resize((side, side), Image.Resampling.NEAREST) if side else picture).astype(np.uint8)
    if labels == 1:
        label = (label > 0).astype(np.uint8)
    if label.max() > labels:
        raise ValueError(f"{pair.mask}: holds {label.max()}, but --labels names {labels}: name more, or map the values")
    if hounsfield is None:
        return image, label
    low, high = hounsfield
    return np.rint(low + image / highest * (high - low)).astype(np.int16), label


if __name__ == "__main__":
    sys.exit(main())
