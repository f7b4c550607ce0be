"""Choose the lesions of ISIC 2024 to train on: every malignant one, and as many benign ones as asked, by patient.

Writes an index (CSV: isic_id, patient_id, target, split) that a recipe takes as `data.index`. The defaults keep as many
benign lesions as the published dataset builder: 40,000 to train on, 10,000 in val; test is never thinned. The published
one split by image; here a patient is in one split.

  python scripts/skin/SampleISIC.py --root raw/isic2024 --out data/isic2024.csv
  python scripts/skin/SampleISIC.py --root raw/isic2024 --out data/isic2024_fold0.csv --fold 0 --folds 5

See docs/data.md for the layout.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from datasets.splits import DEFAULT_RATIOS, SPLITS
from utils.command import run_command

if TYPE_CHECKING:
    from datasets.images.isic import Lesion


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--root", required=True, type=Path, help="folder that holds train-metadata.csv")
    add("--out", required=True, type=Path, help="index to write")
    help_ratios = "shares of the patients, malignant and benign ones apart (default: 0.7 0.1 0.2)"
    add("--ratios", nargs=3, type=float, default=DEFAULT_RATIOS, metavar=("TRAIN", "VAL", "TEST"), help=help_ratios)
    add("--fold", type=int, help="cross-validation: which part of the patients outside test is val, from 0")
    add("--folds", type=int, default=5, help="cross-validation: number of parts (default: 5)")
    add("--train_negatives", type=int, default=40_000, help="benign lesions to keep in train; 0 keeps all")
    add("--val_negatives", type=int, default=10_000, help="benign lesions to keep in val; 0 keeps all")
    add("--seed", type=int, default=0, help="of the split and the choice (default: 0)")
    add("--overwrite", action="store_true", help="replace an index that is there")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    return run_command("SampleISIC", lambda: sample(args))


def sample(args: argparse.Namespace) -> int:
    """Deal the lesions, write the index, and print what it holds."""
    from datasets.images.isic import deal, is_index, read_lesions, write_index  # torch, which --help does not need

    if args.out.exists() and not args.overwrite:
        raise ValueError(f"{args.out} is there: what was trained on it needs it; name another, or pass --overwrite")
    if args.out.exists() and not is_index(args.out):
        raise ValueError(f"{args.out}: was not made by SampleISIC and is not replaced: name another --out")
    lesions = read_lesions(args.root)
    asked = {"train": args.train_negatives, "val": args.val_negatives}
    negatives = {name: count for name, count in asked.items() if count}
    dealt = deal(lesions, args.ratios, args.fold, args.folds, negatives, args.seed)
    write_index(args.out, dealt)
    summarize(lesions, dealt, args.out)
    return 0


def summarize(lesions: Sequence[Lesion], dealt: Sequence[Lesion], out: Path) -> None:
    """Print what the index holds, a line a split."""
    print(f"{'':6} {'patients':>9} {'benign':>9} {'malignant':>10} {'prevalence':>11}")
    for name in ("all", *SPLITS):
        part = lesions if name == "all" else [lesion for lesion in dealt if lesion.split == name]
        malignant = sum(lesion.target for lesion in part)
        share = f"{malignant / len(part):.3%}" if part else "-"
        patients = len({lesion.patient for lesion in part})
        print(f"{name:6} {patients:9,} {len(part) - malignant:9,} {malignant:10,} {share:>11}")
    print(f"kept {len(dealt):,} of {len(lesions):,} lesions; {out}")


if __name__ == "__main__":
    sys.exit(main())
