"""Compares finished runs on the test volumes: Dice, size, work, time, and whether a difference is more than noise.

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
from scipy.stats import ttest_1samp

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from utils import checkpoints
from utils.complexity import complexity, latency
from utils.guards import table


def read_run(folder: str) -> dict:
    """A run's test scores and checkpoint. Raises ValueError naming the folder when either is missing."""
    file = Path(folder) / "test.json"
    if not file.is_file():
        raise ValueError(f"{folder}: has no test.json; run its training command again with --mode test")
    scores, best = json.loads(file.read_text()), Path(folder) / "best.ckpt"
    if scores["checkpoint_sha256"] != checkpoints.sha256(best):
        raise ValueError(f"{file}: was made by an earlier best.ckpt; run the training command again with --mode test")
    return scores | {"content": checkpoints.load(best)}


def case_dice(runs: list[dict], class_name: str | None) -> dict[str, float]:
    """Dice of each case, averaged over runs (seeds), of one class or (None) the mean of all."""
    values: dict[str, list[float]] = {}
    for run in runs:
        for row in run["rows"]:
            if class_name in (None, row["class"]):
                values.setdefault(row["case"], []).append(row["dice"])
    return {case: float(np.mean(dice)) for case, dice in values.items()}


def describe(name: str, runs: list[dict], size: int) -> dict[str, str]:
    content = runs[0]["content"]
    network = checkpoints.rebuild(content)
    work = complexity(network, content["network"]["in_channels"], size)
    milliseconds = latency(network, (1, content["network"]["in_channels"], size, size))
    row = {"run": name, "seeds": str(len(runs))}
    for class_name in content["preprocessing"]["class_names"]:
        row[f"{class_name} Dice"] = spread([np.mean(list(case_dice([run], class_name).values())) for run in runs])
    row["mean Dice"] = spread([run["scores"]["dice"] for run in runs])
    return row | {
        "parameters": f"{work.parameters / 1e6:.2f} M",
        "GMACs": f"{work.macs / 1e9:.2f}",
        "ms/slice": f"{milliseconds:.1f}",
    }


def spread(values: list[float]) -> str:
    """Mean, and the standard deviation over seeds where there are several."""
    mean = f"{np.mean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):.3f}"


def difference(name: str, runs: list[dict], other: str, others: list[dict]) -> str:
    """One line: the mean paired difference over cases, its 95 % interval (Student's t), and what to conclude.

    A difference counts when the interval excludes zero and every seed, compared with the other's mean, agrees in sign.
    """
    ours, theirs = case_dice(runs, None), case_dice(others, None)
    if ours.keys() != theirs.keys():
        raise ValueError(f"{name} and {other} were not scored on the same test cases; use the same split for both")
    paired = np.array([ours[case] - theirs[case] for case in ours])
    low, high = ttest_1samp(paired, 0).confidence_interval() if np.ptp(paired) > 0 else (paired[0], paired[0])
    base = np.mean(list(theirs.values()))
    seeds = [float(np.mean(list(case_dice([run], None).values())) - base) for run in runs]
    agree = all(seed > 0 for seed in seeds) or all(seed < 0 for seed in seeds)
    measurable = agree and (low > 0 or high < 0)
    verdict = f"{name} is {'better' if low > 0 else 'worse'}" if measurable else "no measurable difference"
    by_seed = f"; by seed {', '.join(f'{seed:+.3f}' for seed in seeds)}" if len(seeds) > 1 else ", one seed"
    return (
        f"{name} - {other}: {paired.mean():+.3f} mean Dice, 95 % interval [{low:+.3f}, {high:+.3f}] over {len(paired)} "
        f"cases{by_seed}: {verdict}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="+", metavar="NAME=RUN[,RUN...]")
    parser.add_argument("--against", metavar="NAME", help="the group that those after it are compared with")
    parser.add_argument("--size", type=int, help="side of the slice for MACs and ms (default: the recipe's crop)")
    parser.add_argument("--markdown", action="store_true", help="print the table in Markdown")
    arguments = parser.parse_args()
    try:
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
        size = arguments.size or first["content"]["preprocessing"]["crop"] or 256
        rows = [describe(name, runs, size) for name, runs in groups.items()]
        print(markdown(rows) if arguments.markdown else table(rows))
        print(
            f"\nVolume Dice of {first['cases']} test cases, all slices; {first['empty_mask_rule']}\n"
            f"± is the standard deviation over seeds. GMACs and ms: one {size}x{size} slice, batch 1, fp32, this CPU."
        )
        if arguments.against is not None:
            names = list(groups)
            for name in names[names.index(arguments.against) + 1 :]:
                print(difference(name, groups[name], arguments.against, groups[arguments.against]))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def markdown(rows: list[dict[str, str]]) -> str:
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
    return "\n".join(lines + ["| " + " | ".join(row.values()) + " |" for row in rows])


if __name__ == "__main__":
    sys.exit(main())
