"""Runs side by side: a table of their scores, size and time, and how groups of seeds differ from one of them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

from utils.evaluation.complexity import complexity, latency
from utils.evaluation.kind import IMAGES
from utils.evaluation.statistics import INTERVAL, RULE, correct
from utils.runs.comparison import KEYS, MEAN_DICE, case_dice, compare_runs, conclude, score_names, spread
from utils.runs.results import labels_seen, other_data, same_weights, test_command
from utils.runs.run import Run, compared_by, read_tested
from utils.tables import table
from utils.training import checkpoints


def read_groups(texts: Sequence[str]) -> dict[str, list[Run]]:
    """The runs of each NAME=RUN,..., in the order of their seeds."""
    groups: dict[str, list[Run]] = {}
    for text in texts:
        name, separator, folders = text.partition("=")
        if not separator or Path(text).exists():
            raise ValueError(f"{text}: is not NAME=RUN[,RUN...]: write e.g. student={text}")
        if not name or not folders.strip(","):
            raise ValueError(f"{text}: names no {'run' if name else 'group'}: write NAME=RUN[,RUN...]")
        if name in groups:
            raise ValueError(f"{text}: there is a group {name} already: give all its runs in one, {name}=RUN,RUN")
        groups[name] = sorted(map(read_tested, split_folders(folders)), key=lambda run: run.seed)
    return groups


def split_folders(text: str) -> list[Path]:
    """The folders of a list with commas; a name may hold a comma itself, where such a folder is there."""
    pieces, folders = text.split(","), []
    while pieces:
        joined = (",".join(pieces[:many]) for many in range(1, len(pieces) + 1))
        folder = next((name for name in joined if name and Path(name).exists()), pieces[0])
        pieces = pieces[folder.count(",") + 1 :]
        if folder:
            folders.append(Path(folder))
    return folders


def refuse_unlike(groups: Mapping[str, Sequence[Run]]) -> None:
    """Raises ValueError where runs cannot be compared, or pooled as seeds of one group. Prints what is only odd."""
    runs = [(name, run) for name, members in groups.items() for run in members]
    first = runs[0][1]
    for _, run in runs[1:]:
        names = (str(first.folder), str(run.folder))
        facts = [compared_by(each) | {"tested split": each.result["split_sha256"][:12]} for each in (first, run)]
        for what, ours in facts[0].items():
            if ours != (theirs := facts[1][what]):
                raise ValueError(
                    f"{names[0]} and {names[1]} cannot be compared: the {what} of the one: {ours}, of the other: "
                    f"{theirs}; compare runs of the same data, split and metric"
                )
        if found := other_data(first.result, run.result, names):
            commands = "; ".join(test_command(each.folder, each.checkpoint["recipe"]) for each in (first, run))
            raise ValueError(f"{found}: move both test.json away and test both on the same data: {commands}")
    apart: dict[tuple[str, str], str] = {}
    for (name, run), (other, their) in combinations(runs, 2):
        if same_weights(run.checkpoint, their.checkpoint):
            where = f"twice in {name}" if name == other else f"in {name} and in {other}"
            raise ValueError(f"{run.folder} and {their.folder} are the same run, {where}: give it once")
        if name == other and run.seed == their.seed:
            print(f"note: {name}: {run.folder} and {their.folder} have the same seed {run.seed}", file=sys.stderr)
        images = run.result.get("data_fingerprint"), their.result.get("data_fingerprint")
        if None not in images and images[0] != images[1]:
            if name == other:
                raise ValueError(
                    f"{run.folder} and {their.folder} were tested on other images, so they are not seeds of one "
                    f"group {name}: test both on the same data, or give them two names"
                )
            apart.setdefault((name, other), f"note: {run.folder} and {their.folder} were tested on other images")
    for line in apart.values():  # one for two groups says it of all their runs
        print(line, file=sys.stderr)


def describe(name: str, runs: Sequence[Run], size: int | None) -> dict[str, str]:
    checkpoint = runs[0].checkpoint
    size = size or runs[0].kind.side(checkpoint["preprocessing"])
    network = checkpoints.rebuild(checkpoint)
    work = complexity(network, checkpoint["network"]["in_channels"], size)
    milliseconds = latency(network, (1, checkpoint["network"]["in_channels"], size, size))
    row = {"run": name, "seeds": str(len(runs))}

    def scores(key: str) -> str:
        return spread([run.result["scores"].get(key, float("nan")) for run in runs])

    if runs[0].kind is IMAGES:
        keys = {score: KEYS[score] for score in score_names(runs[0].kind, runs[0].class_names)}
        row |= {score: scores(key) for score, key in keys.items() if score != "pAUC"}
        row["calibration error"] = scores("calibration_error")
        row |= {"pAUC": scores("partial_auc")} if "pAUC" in keys else {}
    else:
        for class_name in runs[0].class_names:
            dice = [np.mean(list(case_dice([run.rows], class_name).values())) for run in runs]
            row[f"{class_name} Dice"] = spread(dice)
        row[MEAN_DICE] = scores("dice")
    return row | {
        "parameters": f"{work.parameters / 1e6:.2f} M",
        "image": f"{size}x{size}",
        "GMACs": f"{work.macs / 1e9:.2f}",
        "ms/image": f"{milliseconds:.1f}",
    }


def differences(groups: Mapping[str, Sequence[Run]], against: str) -> list[str]:
    """A line a group after `against` and score: the paired difference, its interval, by seed, and what to conclude.

    Each seed is compared with the same seed of the other group; where the groups have other seeds, their means are. The
    lines of a score are one table, corrected for their number.
    """
    names, theirs = list(groups), groups[against]
    names = names[names.index(against) + 1 :]
    scores = score_names(theirs[0].kind, theirs[0].class_names)
    cases, lines = len({row["case"] for row in theirs[0].rows}), {}
    for score in scores:
        found = []
        for name in names:
            ours = groups[name]
            same_seeds = [run.seed for run in ours] == [run.seed for run in theirs]
            found.append(compare_runs([run.rows for run in ours], [run.rows for run in theirs], score, same_seeds))
        for name, result in zip(names, correct(found), strict=True):
            lines[name, score] = conclude(score, result, cases, name, against)
    return [lines[name, score] for name in names for score in scores]


def compare(arguments: argparse.Namespace) -> int:
    """Print the table of the groups, and how they differ from the one they are compared with."""
    if arguments.size is not None and (arguments.size < 32 or arguments.size % 32):
        raise ValueError(f"--size {arguments.size}: give a multiple of 32, or leave it out for the recipe's")
    groups = read_groups(arguments.groups)
    names = list(groups)
    if arguments.against is not None and arguments.against not in groups:
        raise ValueError(f"--against {arguments.against}: no such group; one of {', '.join(groups)}")
    if arguments.against is not None and arguments.against == names[-1]:
        raise ValueError(
            f"--against {arguments.against}: no group comes after it to be compared with it: give it before the others"
        )
    refuse_unlike(groups)
    first = groups[names[0]][0]
    rows = [describe(name, runs, arguments.size) for name, runs in groups.items()]
    print(markdown(rows) if arguments.markdown else table(rows))
    print(
        f"\n{first.kind.scores} of {first.result['cases']} test cases; "
        f"{first.result['empty_mask_rule']}\n"
        "± is the standard deviation over seeds. GMACs and ms: one image, batch 1, fp32, this CPU."
    )
    if seen := labels_seen({name: runs[0].checkpoint["recipe"] for name, runs in groups.items()}):
        print(f"labels: {seen}")
    if arguments.against is not None:
        print("\n".join(differences(groups, arguments.against)))
        print(f"{RULE[:1].upper()}{RULE[1:]}; {INTERVAL}.")
    return 0


def markdown(rows: list[dict[str, str]]) -> str:
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
    return "\n".join(lines + ["| " + " | ".join(row.values()) + " |" for row in rows])
