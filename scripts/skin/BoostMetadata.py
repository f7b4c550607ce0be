"""ISIC 2024's last step: gradient boosting on what a student sees of a lesion and what is known about it.

The student's embedding and the metadata are columns of one table. Boosters are fitted on the patients of val, never on
those the student was trained on, of which it is too sure. Patient-grouped folds of val compare four models: the student
alone, the metadata alone, the embedding alone, both. Then each is fitted on all of val, and test is read once: a
second call shows what the first one wrote, and with other settings it is refused. Choose settings with --no_test.
(The student's best.ckpt was picked on val, so val flatters the student a little; test does not.)

Columns that know the answer (iddx_*, mel_*, lesion_id, tbp_lv_dnn_lesion_confidence, ...) are refused. Categories are
split as categories, what is missing stays missing, and both classes weigh the same.

OUT receives boosting.json (scores, intervals over patients, settings, the checkpoint's SHA-256) and predictions.csv
(each lesion of val, by the fold it is in, and of test). The booster is not written: scikit-learn's would be a pickle,
which can execute anything where it is read. The same command and seed fit it again.

  python scripts/skin/BoostMetadata.py --checkpoint runs/isic_student/best.ckpt --outpath runs/isic_boosted
  python scripts/skin/BoostMetadata.py --checkpoint runs/isic_student/best.ckpt --outpath runs/try --no_test --depth 3
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from utils.command import run_command


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--checkpoint", required=True, type=Path, help="the student, trained on data: {name: isic, ...}")
    add("--outpath", required=True, type=Path, help="folder to write to")
    add("--root", type=Path, help="folder of train-metadata.csv and the images (default: the checkpoint's)")
    add("--columns", nargs="+", default=["all"], help="columns of the metadata (default: all that do not leak)")
    add("--tap", nargs="+", default=["embedding"], help="features of the student (default: embedding)")
    add("--iterations", type=int, default=200, help="trees (default: 200)")
    add("--learning_rate", type=float, default=0.05, help="default: 0.05")
    add("--depth", type=int, default=5, help="of a tree, at most (default: 5)")
    add("--folds", type=int, default=5, help="parts of val's patients (default: 5)")
    add("--seed", type=int, default=0, help="of folds and boosters (default: 0)")
    add("--no_test", action="store_true", help="folds of val only")
    add("--batch_size", type=int, default=64, help="images at once (default: 64)")
    add("--workers", type=int, default=0, help="processes that load images (default: 0)")
    add("--accelerator", default="auto", choices=("auto", "cpu", "cuda"), help="default: auto")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)

    def work() -> int:
        from utils.skin.boost_metadata import boost  # it loads torch, which --help does not need

        return boost(args)

    return run_command("BoostMetadata", work)


if __name__ == "__main__":
    sys.exit(main())
