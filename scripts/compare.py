"""Compares finished runs on the test split: scores, size, work, time, and whether a difference is more than noise.

Each group is one row: NAME=RUN, or NAME=RUN,RUN,... for several seeds of one recipe. A RUN is an output folder of
train.py or train_kd.py with a test.json (written by --mode test). The groups that come after the one named with
--against are compared with it, case by case.

Example: python scripts/compare.py teacher=runs/t student=runs/s0,runs/s1 distilled=runs/d0,runs/d1 --against student
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from utils import checkpoints
from utils.command import run_command
from utils.comparison import (
    accuracy,
    auroc,
    balanced_accuracy,
    by_seed,
    case_dice,
    case_interval,
    conclude,
    probabilities,
    resampled_interval,
    spread,
)
from utils.complexity import complexity, latency
from utils.guards import table
from utils.metrics.partial_auc import partial_auc

CLASSIFICATION_SCORES = {"accuracy": accuracy, "balanced_accuracy": balanced_accuracy, "auroc": auroc}
LABELS = {"accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "auroc": "AUROC", "partial_auc": "pAUC"}


def read_run(folder: str) -> dict:
    """A run's test scores and checkpoint. Raises ValueError naming the folder when either is missing."""
    file = Path(folder) / "test.json"
    if not file.is_file():
        raise ValueError(f"{folder}: has no test.json; run its training command again with --mode test")
    scores, best = json.loads(file.read_text()), Path(folder) / "best.ckpt"
    if scores["checkpoint_sha256"] != checkpoints.sha256(best):
        raise ValueError(f"{file}: was made by an earlier best.ckpt; run the training command again with --mode test")
    return scores | {"content": checkpoints.load(best)}


def classifies(run: dict) -> bool:
    return "probability" in run["rows"][0]


def describe(name: str, runs: list[dict], size: int | None) -> dict[str, str]:
    content = runs[0]["content"]
    preprocessing = content["preprocessing"]
    size = size or preprocessing.get("image_size") or preprocessing.get("crop") or 256
    network = checkpoints.rebuild(content)
    work = complexity(network, content["network"]["in_channels"], size)
    milliseconds = latency(network, (1, content["network"]["in_channels"], size, size))
    row = {"run": name, "seeds": str(len(runs))}
    if classifies(runs[0]):
        for score in CLASSIFICATION_SCORES:
            row[LABELS[score]] = spread([run["scores"][score] for run in runs])
        row["calibration error"] = spread([run["scores"]["calibration_error"] for run in runs])
        if "partial_auc" in runs[0]["scores"]:
            row["pAUC"] = spread([run["scores"]["partial_auc"] for run in runs])
    else:
        for class_name in content["preprocessing"]["class_names"]:
            dice = [np.mean(list(case_dice([run["rows"]], class_name).values())) for run in runs]
            row[f"{class_name} Dice"] = spread(dice)
        row["mean Dice"] = spread([run["scores"]["dice"] for run in runs])
    return row | {
        "parameters": f"{work.parameters / 1e6:.2f} M",
        "image": f"{size}x{size}",
        "GMACs": f"{work.macs / 1e9:.2f}",
        "ms/image": f"{milliseconds:.1f}",
    }


def differences(name: str, runs: list[dict], other: str, others: list[dict]) -> list[str]:
    """A line a score: the mean paired difference, its 95 % interval over cases, by seed, and what to conclude.

    Dice is a mean over cases: Student's t. Scores of all images together: bootstrap over images. Each seed is compared
    with the same seed of the other group where both have as many, else with the other's mean.
    """
    if not classifies(runs[0]):
        ours, theirs = (case_dice([run["rows"] for run in group]) for group in (runs, others))
        _refuse_other_cases(ours.keys() == theirs.keys(), name, other)
        interval = case_interval(np.array([ours[case] - theirs[case] for case in ours]))
        means = [[float(np.mean(list(case_dice([run["rows"]]).values()))) for run in group] for group in (runs, others)]
        return [conclude("mean Dice", interval, by_seed(*means), len(ours), name, other)]
    cases = [sorted(row["case"] for row in run["rows"]) for run in (*runs, *others)]
    _refuse_other_cases(all(named == cases[0] for named in cases), name, other)
    target = probabilities(runs[0]["rows"])[1]
    if any((probabilities(run["rows"])[1] != target).any() for run in (*runs, *others)):
        raise ValueError(f"{name} and {other} have other targets for the same test cases; use the same data for both")
    ours, theirs = ([probabilities(run["rows"])[0] for run in group] for group in (runs, others))
    lines = []
    scores = dict(CLASSIFICATION_SCORES)
    if ours[0].shape[1] == 2:
        scores["partial_auc"] = lambda probability, target: partial_auc(probability[:, 1], target)
    for name_of_score, score in scores.items():
        interval = resampled_interval(score, ours, theirs, target)
        seeds = by_seed([score(run, target) for run in ours], [score(run, target) for run in theirs])
        lines.append(conclude(LABELS[name_of_score], interval, seeds, len(target), name, other))
    return lines


def _refuse_other_cases(same: bool, name: str, other: str) -> None:
    if not same:
        raise ValueError(f"{name} and {other} were not scored on the same test cases; use the same split for both")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="+", metavar="NAME=RUN[,RUN...]")
    parser.add_argument("--against", metavar="NAME", help="the group that those after it are compared with")
    parser.add_argument("--size", type=int, help="side of the image for MACs and ms (default: the recipe's)")
    parser.add_argument("--markdown", action="store_true", help="print the table in Markdown")
    return parser


def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    return run_command("compare", lambda: compare(arguments))


def compare(arguments: argparse.Namespace) -> int:
    """Print the table of the groups, and how they differ from the one they are compared with."""
    groups = {}
    for group in arguments.groups:
        name, separator, folders = group.partition("=")
        if not separator:
            raise ValueError(f"{group!r} is not NAME=RUN[,RUN...]")
        groups[name] = [read_run(folder) for folder in folders.split(",")]
    if arguments.against is not None and arguments.against not in groups:
        raise ValueError(f"--against {arguments.against}: no such group; one of {', '.join(groups)}")
    first = next(iter(groups.values()))[0]
    splits = {run["split_sha256"] for runs in groups.values() for run in runs}
    classes = {tuple(run["content"]["preprocessing"]["class_names"]) for runs in groups.values() for run in runs}
    rules = {run["empty_mask_rule"] for runs in groups.values() for run in runs}
    for what, found in (("splits", splits), ("classes", classes), ("metrics", rules)):
        if len(found) > 1:
            raise ValueError(f"the runs have different {what}; they cannot be compared")
    rows = [describe(name, runs, arguments.size) for name, runs in groups.items()]
    print(markdown(rows) if arguments.markdown else table(rows))
    print(
        f"\n{'Scores' if classifies(first) else 'Volume Dice, all slices,'} of {first['cases']} test cases; "
        f"{first['empty_mask_rule']}\n"
        "± is the standard deviation over seeds. GMACs and ms: one image, batch 1, fp32, this CPU."
    )
    if arguments.against is not None:
        names = list(groups)
        for name in names[names.index(arguments.against) + 1 :]:
            print("\n".join(differences(name, groups[name], arguments.against, groups[arguments.against])))
    return 0


def markdown(rows: list[dict[str, str]]) -> str:
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
    return "\n".join(lines + ["| " + " | ".join(row.values()) + " |" for row in rows])


if __name__ == "__main__":
    sys.exit(main())
