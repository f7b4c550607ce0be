"""Scores predicted labels against their targets, or a checkpoint on a split; or compares two such evaluations.

One row a case and class: Dice, surface Dice, HD95, ASSD, VOE (1 - IoU), |RVD|, volumes in ml, lesions detected, missed
and false, with the empty-mask rule of each score in the file. A case whose grids disagree is reported in one line, the
rest finish, and the exit status is 1.

  python scripts/evaluate.py --predictions predictions --labels raw/kits19/data --official kits23 --output scores
  python scripts/evaluate.py --checkpoint runs/kits19_emkd --split test
  python scripts/evaluate.py --compare runs/kits19_emkd/best_test_scores.json runs/kits19_alone/best_test_scores.json

Files are matched by case: case_00000.nii.gz or case_00000/segmentation.nii.gz (KiTS), volume-0 or segmentation-0
(LiTS), or one name (MSD). A checkpoint's scores are written beside it. Its test split is read once: a second evaluation
shows what the first one wrote, unless --again is given. At --output nothing is replaced unless --overwrite is given.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

# Worker processes import this file again: what needs torch, MONAI or scipy.stats is imported where it is used.
from datasets.slices.resampling import asked_words
from utils.command import check_numbers, make_parser, run_command
from utils.evaluation.volumes.boxes import with_boxes
from utils.evaluation.volumes.cases import Classes
from utils.evaluation.volumes.challenges import OFFICIAL
from utils.evaluation.volumes.evaluation import evaluate_cases, settings_of
from utils.evaluation.volumes.files import (
    as_prefix,
    check_place,
    read_scores,
    refuse_existing,
    score_files,
    table_files,
    write_csv,
    write_json,
    write_scores,
)
from utils.evaluation.volumes.pairs import find_pairs, known_classes
from utils.evaluation.volumes.scores import HIGHER_IS_BETTER, LesionRule, Region
from utils.machine import cores

if TYPE_CHECKING:
    from utils.runs.locator import Margin

COMPARED = ("dice", "surface_dice", "hd95_mm", "assd_mm", "abs_rvd", "lesion_f1")  # VOE orders cases as Dice does


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__)
    what = parser.add_argument_group("what is evaluated (one of the three)")
    what.add_argument("--predictions", type=Path, help="folder of predicted NIfTI labels, or one file; with --labels")
    what.add_argument("--labels", type=Path, help="folder of their targets in the dataset's own layout, or one file")
    what.add_argument("--checkpoint", type=Path, help="run folder, checkpoint, or what export.py wrote; with --split")
    what.add_argument("--split", choices=("val", "test"), help="of the slice store the checkpoint was trained on")
    help_compare = "is A better than B, case by case?"
    help_margin = (
        "of a locator, with --split val: how far beyond its box the foreground reaches, for predict.py --locate"
    )
    parser.add_argument("--margin", action="store_true", help=help_margin)
    what.add_argument("--compare", nargs=2, type=Path, metavar=("A.json", "B.json"), help=help_compare)
    add = parser.add_argument
    add("--output", help="beginning of the written files: OUTPUT.json, OUTPUT.csv, OUTPUT_lesions.csv")
    add("--overwrite", action="store_true", help="replace such files where they are there already")
    add("--official", choices=OFFICIAL, help="the classes, tolerances and means of a challenge instead of the labels'")
    add("--class_names", nargs="+", metavar="NAME", help="names of the label values 1, 2, ... (default: by the layout)")
    add("--tolerance_mm", type=float, default=1.0, help="of surface Dice without --official (default: 1)")
    add("--lesion_iou", type=float, default=0.1, help="overlap that detects a lesion; 0: any voxel (default: 0.1)")
    add("--lesion_ml", type=float, default=0.0, help="smaller components do not count as lesions (default: 0)")
    add("--jobs", type=int, help="worker processes (default: one per core)")
    add("--scheduler", metavar="ADDRESS", help="Dask scheduler (tcp://host:8786) whose workers score the cases")
    add("--data", metavar="ROOT", help="slice store, if it has moved since the training")
    add("--again", action="store_true", help="read the test split again")
    add("--scores", nargs="+", choices=tuple(HIGHER_IS_BETTER), default=COMPARED, help="what --compare compares")
    return parser


def main(argv: list[str] | None = None) -> int:
    parser = build_parser()
    arguments = parser.parse_args(argv)
    ways = [arguments.compare is not None, arguments.predictions is not None, arguments.checkpoint is not None]
    if sum(ways) != 1:
        parser.error("give one of --predictions (with --labels), --checkpoint (with --split), and --compare")
    if (arguments.labels is None) != (arguments.predictions is None):
        parser.error("--predictions and --labels belong together")
    if (arguments.split is None) != (arguments.checkpoint is None):
        parser.error("--checkpoint and --split belong together")
    if arguments.margin and arguments.split != "val":
        parser.error("--margin is measured with --checkpoint and --split val")
    way = (compare_files, evaluate_files, evaluate_checkpoint)[ways.index(True)]

    def evaluate() -> int:
        check_flags(arguments)
        return way(arguments)

    return run_command("evaluate", evaluate)


def check_flags(arguments: argparse.Namespace) -> None:
    check_numbers(arguments, tolerance_mm=0, lesion_ml=0, jobs=1)
    if arguments.official and arguments.class_names:
        raise ValueError(
            f"--class_names: --official {arguments.official} has its own classes: leave one of the two out"
        )


def evaluate_files(arguments: argparse.Namespace) -> int:
    """Scores predicted labels against labels."""
    place = as_prefix(arguments.output or "scores")
    refuse_existing(score_files(place), arguments.overwrite)
    found = find_pairs(arguments.predictions, arguments.labels)
    pairs, notes = with_boxes(found.pairs, arguments.predictions), found.notes
    classes = choose_classes(arguments, known_classes(arguments.labels, [pair.case for pair in pairs]))
    problems = [str(finding) for finding in found.findings]
    for problem in problems:
        print(problem, file=sys.stderr)
    source = {"predictions": str(arguments.predictions), "labels": str(arguments.labels)}
    check_place(place)
    how = (arguments.official, arguments.jobs or cores(), source, problems, notes, arguments.scheduler)
    content = evaluate_cases(pairs, len(pairs), classes, *how)
    return finish(content, [place])


def choose_classes(arguments: argparse.Namespace, known: Mapping[int, str], fixed: bool = False) -> Classes:
    """What the flags ask to be scored: a challenge's classes, named ones, or every label value there is.

    known: names of label values; fixed: score these and no others.
    """
    regions = None
    if arguments.official:
        regions = OFFICIAL[arguments.official].regions
    elif arguments.class_names or fixed:
        names = dict(enumerate(arguments.class_names, start=1)) if arguments.class_names else known
        if len(set(names.values())) < len(names):
            raise ValueError(f"--class_names {' '.join(names.values())}: give every class a name of its own")
        regions = tuple(Region(name, (value,), arguments.tolerance_mm) for value, name in names.items())
    return Classes(regions, dict(known), arguments.tolerance_mm, lesion_rule(arguments))


def lesion_rule(arguments: argparse.Namespace) -> LesionRule:
    return LesionRule(arguments.lesion_iou, arguments.lesion_ml)


def evaluate_checkpoint(arguments: argparse.Namespace) -> int:
    """Scores a checkpoint on the val or test split of its slice store."""
    from utils.runs.data import open_labeled
    from utils.runs.locator import measure_margin
    from utils.runs.models import load_for_scoring, network_file
    from utils.runs.results import labels_seen
    from utils.runs.splits import check_scorable, predict_cases
    from utils.training import checkpoints

    path = network_file(arguments.checkpoint)
    checkpoint, network = load_for_scoring(path)
    digest = checkpoints.sha256(path)
    if arguments.margin:
        check_scorable(checkpoint)
        return print_margin(
            path, measure_margin(checkpoint, open_labeled(checkpoint, "val", arguments.data), network, digest)
        )
    places = [path.with_name(f"{path.stem}_{arguments.split}_scores")]
    if arguments.output:
        places.append(as_prefix(arguments.output))
        refuse_existing(score_files(places[1]), arguments.overwrite)
    written = score_files(places[0])[0]
    if arguments.split == "test" and written.is_file() and not arguments.again:
        known = read_scores(written)
        if known.get("evaluated", {}).get("checkpoint_sha256") == digest:
            print(f"{path}: its test split was read before; this is what was written (--again reads it again)")
            asked = settings_of(arguments.official, arguments.tolerance_mm, lesion_rule(arguments))
            if known["settings"] != asked:
                print("note: it was read with other settings than those asked for now: see `settings` in the file")
            return finish(known, places[1:], [written])
    check_scorable(checkpoint)
    dataset = open_labeled(checkpoint, arguments.split, arguments.data, same_split=False)
    names = dict(enumerate(dataset.class_names, start=1))
    if arguments.official:
        labels = OFFICIAL[arguments.official].labels
        if list(names.values()) != list(labels[: len(names)]) or len(names) < 2:
            raise ValueError(
                f"--official {arguments.official} needs the classes {', '.join(labels)}; the checkpoint predicts "
                f"{', '.join(names.values())}: train with task all"
            )
    source = {
        "checkpoint": str(path),
        "checkpoint_sha256": digest,
        "split": arguments.split,
        "split_sha256": checkpoint["split"]["sha256"],
    }
    for place in places:
        check_place(place)
    cases = predict_cases(checkpoint, dataset, network=network)
    classes = choose_classes(arguments, names, fixed=True)
    words = asked_words(checkpoint["preprocessing"])
    notes = [f"the network takes slices of {words}; it is scored on the grids of the sources"] if words else []
    notes += [f"labels: {seen}"] if (seen := labels_seen({"": checkpoint["recipe"]})) else []
    how = (arguments.official, arguments.jobs or cores(), source, (), notes, arguments.scheduler)
    content = evaluate_cases(cases, len(dataset.cases), classes, *how)
    return finish(content, places)


def print_margin(path: Path, margin: Margin) -> int:
    """Writes the margin of a locator beside it, and prints what it keeps."""
    from utils.runs.locator import write_margin

    file = write_margin(margin, path)
    print(f"margin {margin.margin_mm:g} mm: the boxes of {margin.cases} val cases then hold {margin.recall:.4%} of the")
    print(f"foreground ({margin.recall_without_margin:.4%} without it) and {margin.box_share:.1%} of the volume")
    if margin.without_box:
        print(f"in {margin.without_box} cases it finds nothing: there the whole volume is predicted")
    print(f"written: {file}; next: scripts/predict.py --locate {path.parent}")
    return 0


def finish(content: Mapping[str, Any], places: Sequence[Path], written: Sequence[Path] = ()) -> int:
    """Writes an evaluation and prints its means. Returns the exit status: 1 when a case is missing from them."""
    from utils.evaluation.volumes.printing import print_scores

    print_scores(content)  # first, so that a full disk does not lose them
    files = [*written, *(file for place in places for file in write_scores(place, content))]
    print(f"{content['cases']} cases scored, {len(content['not_scored'])} could not be: {', '.join(map(str, files))}")
    return 1 if content["not_scored"] else 0


def compare_files(arguments: argparse.Namespace) -> int:
    """Compares two evaluations of the same cases."""
    from utils.evaluation.statistics import INTERVAL, RULE
    from utils.evaluation.volumes.paired_tests import compare
    from utils.evaluation.volumes.printing import print_comparison
    from utils.runs.results import other_data

    if arguments.output:
        refuse_existing(table_files(as_prefix(arguments.output)), arguments.overwrite, arguments.compare)
    first, second = (read_scores(path) for path in arguments.compare)
    names = (str(arguments.compare[0]), str(arguments.compare[1]))
    if found := other_data(first, second, names):
        raise ValueError(f"{found}: score both on the same labels")
    splits = [content.get("evaluated", content).get("split_sha256") for content in (first, second)]
    if None not in splits and splits[0] != splits[1]:
        raise ValueError(f"{names[0]} and {names[1]} are of other splits of the data: score both on the same split")
    if first.get("settings") != second.get("settings"):
        raise ValueError(
            f"{names[0]} and {names[1]} were scored with other settings "
            f"({first.get('settings')}; {second.get('settings')}): score both with the same flags"
        )
    lines = compare(first["rows"], second["rows"], arguments.scores)
    if arguments.compare[0].samefile(arguments.compare[1]):
        raise ValueError(f"{names[0]} and {names[1]} are the same file: give two evaluations")
    print_comparison(names, lines)
    if arguments.output:
        everything, rows = table_files(as_prefix(arguments.output))
        write_json(everything, {"A": names[0], "B": names[1], "rule": f"{RULE}; {INTERVAL}", "rows": lines})
        write_csv(rows, lines)
        print(f"written: {everything}, {rows}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
