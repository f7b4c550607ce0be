"""Scores predicted labels against their targets, or a checkpoint on a split; or compares two such evaluations.

One row a case and class: Dice, surface Dice, HD95, ASSD, VOE (1 - IoU), |RVD|, volumes in ml, lesions detected, missed
and false, with the empty-mask rule of each score in the file. A case whose grids disagree is reported in one line, the
rest finish, and the exit status is 1.

  python scripts/evaluate.py --predictions predictions --labels raw/kits19/data --official kits23 --output scores
  python scripts/evaluate.py --checkpoint runs/kits19_emkd --split test
  python scripts/evaluate.py --compare runs/kits19_emkd/best_test_scores.json runs/kits19_alone/best_test_scores.json

Files are matched by case: case_00000.nii.gz or case_00000/segmentation.nii.gz (KiTS), volume-0 or segmentation-0
(LiTS), or one name (MSD). A checkpoint's test split is read once: a second evaluation shows what the first one wrote
beside the checkpoint, unless --again is given.
"""

import argparse
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

# Worker processes import this file again: what needs torch, MONAI or scipy.stats is imported where it is used.
from utils.scoring.cases import Classes, Outcome, Volumes, rows_of, score_cases, unscored
from utils.scoring.challenges import OFFICIAL, official_scores
from utils.scoring.files import as_prefix, read_scores, write_csv, write_json, write_scores
from utils.scoring.pairs import Pair, find_pairs, known_classes
from utils.scoring.volumes import DEFINITIONS, EMPTY_MASK_RULES, HIGHER_IS_BETTER, LesionRule, Region, summarize

COMPARED = ("dice", "surface_dice", "hd95_mm", "assd_mm", "abs_rvd", "lesion_f1")  # VOE orders cases as Dice does


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_argument_group("what is evaluated (one of the three)")
    what.add_argument("--predictions", type=Path, help="folder of predicted NIfTI labels, or one file; with --labels")
    what.add_argument("--labels", type=Path, help="folder of their targets in the dataset's own layout, or one file")
    what.add_argument("--checkpoint", type=Path, help="run folder or checkpoint; with --split")
    what.add_argument("--split", choices=("val", "test"), help="of the slice store the checkpoint was trained on")
    what.add_argument("--compare", nargs=2, metavar=("A.json", "B.json"), help="is A better than B, case by case?")
    add = parser.add_argument
    add("--output", help="beginning of the written files: OUTPUT.json, OUTPUT.csv, OUTPUT_lesions.csv")
    add("--official", choices=OFFICIAL, help="the classes, tolerances and means of a challenge instead of the labels'")
    add("--class_names", nargs="+", metavar="NAME", help="names of the label values 1, 2, ... (default: by the layout)")
    add("--tolerance_mm", type=float, default=1.0, help="of surface Dice without --official (default: 1)")
    add("--lesion_iou", type=float, default=0.1, help="overlap that detects a lesion; 0: any voxel (default: 0.1)")
    add("--lesion_ml", type=float, default=0.0, help="smaller components are no lesions (default: 0)")
    add("--jobs", type=int, help="worker processes (default: one per core)")
    add("--data", metavar="ROOT", help="slice store, where it is no longer at the recipe's place")
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
    way = (compare_files, evaluate_files, evaluate_checkpoint)[ways.index(True)]
    try:
        return way(arguments)
    except (ValueError, OSError) as error:
        print(f"evaluate: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("evaluate: interrupted, nothing was written", file=sys.stderr)
        return 130


def evaluate_files(arguments: argparse.Namespace) -> int:
    """Scores predicted labels against labels."""
    pairs, findings, unmatched = find_pairs(arguments.predictions, arguments.labels)
    classes = choose_classes(arguments, known_classes(arguments.labels, [pair.case for pair in pairs]))
    problems = [str(finding) for finding in findings]
    for problem in problems:
        print(problem, file=sys.stderr)
    notes = []
    for side, other in (("labels", "prediction"), ("predictions", "label")):
        if cases := unmatched[side]:
            notes.append(f"not scored: {len(cases)} {side} without {other} ({some(cases)})")
    source = {"predictions": str(arguments.predictions), "labels": str(arguments.labels)}
    content = evaluate_cases(pairs, len(pairs), arguments, classes, source, problems, notes)
    return finish(content, [as_prefix(arguments.output or "scores")])


def choose_classes(arguments: argparse.Namespace, known: Mapping[int, str], fixed: bool = False) -> Classes:
    """What the flags ask to be scored: a challenge's classes, named ones, or every label value there is.

    known: names of label values; fixed: score these and no others. Raises ValueError for numbers out of range.
    """
    if not arguments.tolerance_mm >= 0:
        raise ValueError(f"--tolerance_mm {arguments.tolerance_mm} is no distance: give 0 or more")
    regions = None
    if arguments.official:
        regions = OFFICIAL[arguments.official].regions
    elif arguments.class_names or fixed:
        names = dict(enumerate(arguments.class_names, start=1)) if arguments.class_names else known
        if len(set(names.values())) < len(names):
            raise ValueError(f"--class_names {' '.join(names.values())}: give every class a name of its own")
        regions = tuple(Region(name, (value,), arguments.tolerance_mm) for value, name in names.items())
    return Classes(regions, dict(known), arguments.tolerance_mm, LesionRule(arguments.lesion_iou, arguments.lesion_ml))


def evaluate_checkpoint(arguments: argparse.Namespace) -> int:
    """Scores a checkpoint on the val or test split of its slice store."""
    from utils import checkpoints
    from utils.scoring.splits import open_split, predict_cases

    path = arguments.checkpoint / "best.ckpt" if arguments.checkpoint.is_dir() else arguments.checkpoint
    checkpoint = checkpoints.load(path)
    digest = checkpoints.sha256(path)
    places = [path.with_name(f"{path.stem}_{arguments.split}_scores")]
    if arguments.output:
        places.append(as_prefix(arguments.output))
    written = places[0].with_name(f"{places[0].name}.json")
    if arguments.split == "test" and written.is_file() and not arguments.again:
        known = read_scores(str(written))
        if known["evaluated"].get("checkpoint_sha256") == digest:
            print(f"{path}: its test split was read before; this is what was written (--again reads it again)")
            if known["settings"] != settings(arguments):
                print("note: it was read with other settings than those asked for now: see `settings` in the file")
            return finish(known, places[1:], [written])
    dataset = open_split(checkpoint, arguments.split, arguments.data)
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
    cases = predict_cases(checkpoint, dataset)
    classes = choose_classes(arguments, names, fixed=True)
    content = evaluate_cases(cases, len(dataset.cases), arguments, classes, source, [], [])
    return finish(content, places)


def evaluate_cases(
    cases: Iterable[Pair | Volumes],
    count: int,
    arguments: argparse.Namespace,
    classes: Classes,
    source: Mapping[str, str],
    problems: list[str],
    notes: list[str],
) -> dict[str, Any]:
    """Scores the cases and says what is written about them. Raises ValueError when none could be scored."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(arguments.jobs or cores, count)
    outcomes: list[Outcome] = []
    for outcome in tqdm(score_cases(cases, classes, workers), "scoring", count, unit="case", disable=None):
        outcomes.append(outcome)
        if outcome.problem:
            tqdm.write(outcome.problem, sys.stderr)
            problems.append(outcome.problem)
    rows = rows_of(outcomes, classes)
    if not rows:
        raise ValueError(
            "no case could be scored" if problems else "all labels are empty: name the classes with --class_names"
        )
    if lost := [outcome.case for outcome in outcomes if outcome.spacing_lost]:
        notes.append(
            f"{len(lost)} cases say 1 x 1 x 1 mm and an identity affine ({some(lost)}), as LiTS volumes 28 to 47 do: "
            "their spacing may be lost, then their mm are voxels and their ml 1000 voxels"
        )
    for value, holders in unscored(outcomes, classes).items():
        notes.append(f"label value {value}, in {holders} cases, belongs to no class that is scored")
    places = {outcome.case: outcome.patient for outcome in outcomes}
    content = {
        "evaluated": dict(source),
        "settings": settings(arguments),
        "cases": len({row["case"] for row in rows}),
        "empty_mask_rules": EMPTY_MASK_RULES,
        "definitions": DEFINITIONS,
        "not_scored": problems,
        "notes": notes,
        "summary": summarize(rows),
        "official": None,
        "rows": rows,
        "lesions": [
            {"case": outcome.case, "patient": places[outcome.case], **row}
            for outcome in outcomes
            for row in outcome.scores.lesions
        ],
    }
    if arguments.official:
        rule = OFFICIAL[arguments.official].rule
        scores = official_scores(arguments.official, rows)
        content["official"] = {"challenge": arguments.official, "rule": rule, "scores": scores}
    return content


def settings(arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "official": arguments.official,
        "tolerance_mm": None if arguments.official else arguments.tolerance_mm,
        "lesion_iou": arguments.lesion_iou,
        "lesion_ml": arguments.lesion_ml,
        "lesion_connectivity": 26,
    }


def finish(content: Mapping[str, Any], places: Sequence[Path], written: Sequence[Path] = ()) -> int:
    """Writes an evaluation and prints its means. Returns the exit status: 1 when a case is missing from them."""
    files = [*written, *(file for place in places for file in write_scores(place, content))]
    from utils.guards import table

    print(table([_line(name, scores) for name, scores in content["summary"].items()]))
    print("means over cases; hd95, assd, |rvd|: over (n) cases, where they exist; lesions: sums over cases")
    print(f"dice is {EMPTY_MASK_RULES['dice']}; every rule is in the files")
    if official := content["official"]:
        print(f"\n{official['challenge']}: {official['rule']}")
        print(table([{"score": name, "value": f"{value:.6f}"} for name, value in official["scores"].items()]))
    for note in content["notes"]:
        print(f"note: {note}")
    print(f"{content['cases']} cases scored, {len(content['not_scored'])} could not be: {', '.join(map(str, files))}")
    return 1 if content["not_scored"] else 0


def _line(name: str, scores: Mapping[str, float]) -> dict[str, str]:
    def mean(score: str, digits: int = 3) -> str:
        count = f" ({scores[f'{score}_cases']})" if f"{score}_cases" in scores else ""
        return (f"{scores[score]:.{digits}f}" if score in scores else "-") + count

    return {
        "class": name,
        "cases": f"{scores['cases']} ({scores['cases_without']} without, {scores['cases_missed']} missed)",
        "dice": mean("dice"),
        "surface dice": mean("surface_dice"),
        "hd95 mm": mean("hd95_mm", 2),
        "assd mm": mean("assd_mm", 2),
        "voe": mean("voe"),
        "|rvd|": mean("abs_rvd"),
        "lesions found": f"{scores['lesions_detected']}/{scores['lesions']}",
        "false": str(scores["lesions_false"]),
        "lesion f1": f"{mean('lesion_f1')}, pooled {scores['lesion_f1_pooled']:.3f}",
    }


def compare_files(arguments: argparse.Namespace) -> int:
    """Compares two evaluations of the same cases."""
    from utils.guards import table
    from utils.scoring.paired_tests import RULE, compare

    first, second = (read_scores(path) for path in arguments.compare)
    if first.get("settings") != second.get("settings"):
        raise ValueError(
            f"{arguments.compare[0]} and {arguments.compare[1]} were scored with other settings "
            f"({first.get('settings')}; {second.get('settings')}): score both with the same flags"
        )
    lines = compare(first["rows"], second["rows"], arguments.scores)
    print(f"A: {arguments.compare[0]}\nB: {arguments.compare[1]}\n")
    print(table([_comparison(line) for line in lines]))
    print(f"\n95 % intervals of A - B; {RULE}.\neffect: rank-biserial correlation; p: before and after the correction")
    if any(line["left_out"] for line in lines):
        print("(-n): pairs left out because A or B has an empty mask there and so no distance")
    if arguments.output:
        prefix = as_prefix(arguments.output)
        content = {"A": arguments.compare[0], "B": arguments.compare[1], "rule": RULE, "rows": lines}
        print(f"written: {write_json(prefix, content)}, {write_csv(prefix, lines)}")
    return 0


def _comparison(line: Mapping[str, Any]) -> dict[str, str]:
    left_out = f" (-{line['left_out']})" if line["left_out"] else ""
    return {
        "class": line["class"],
        "score": line["score"],
        "cases": f"{line['cases']}{left_out}",
        "A": f"{line['mean']:.3f}",
        "B": f"{line['other_mean']:.3f}",
        "A - B": f"{line['difference']:+.3f} [{line['low']:+.3f}, {line['high']:+.3f}]",
        "p": f"{line['p']:.3g}, {line['p_holm']:.3g}",
        "effect": f"{line['effect']:+.2f}",
        "verdict": line["verdict"],
    }


def some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


if __name__ == "__main__":
    sys.exit(main())
