"""Measures how often the 95 % interval of `utils/evaluation/statistics.py` holds the true difference, in simulation.

A paired difference of a seed and a case is mean + seed + case + rest, all normal. The variances of seed and case add
up to 1 in the ratio of the column; the row says how large that of the rest is. A cell shows the coverage in percent
and, in brackets, the mean width in standard errors of the mean (3.9 would do if the variances were known). Below: one
seed, groups with seeds of their own, and an AUROC of 40 images, 10 of them positive; beside each, how often no
difference is called better or worse.
"""

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from utils.command import make_parser, run_command
from utils.evaluation.statistics import BETTER, LEVEL, WORSE, compare, critical, jackknife, p_value, variance_terms
from utils.tables import table

SEEDS, CASES, RATIOS, RESTS = (3, 5), (6, 9, 40), (0.0, 0.25, 1.0, 4.0, np.inf), (0.05, 0.5, 5.0)
Scores = NDArray[np.floating]


def main(argv: list[str] | None = None) -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--trials", type=int, default=5000, help="experiments a cell, at least 100 (default: 5000)")
    arguments = parser.parse_args(argv)
    return run_command("coverage", lambda: show(arguments.trials))


def show(trials: int) -> int:
    """Simulate and print."""
    if trials < 100:
        raise ValueError(f"--trials {trials}: give at least 100")
    random = np.random.default_rng(0)
    cells = [(rest, seeds, cases) for rest in RESTS for seeds in SEEDS for cases in CASES]
    print(table([row_of(random, trials, *cell) for cell in cells]))
    print(f"\n{trials} experiments a cell: 95 % is known to ± {196 * np.sqrt(0.95 * 0.05 / trials):.1f}\n")
    print(table([*one_seed(random, trials), *own_seeds(random, trials), of_auroc(random, min(trials, 1000))]))
    return 0


def row_of(random: np.random.Generator, trials: int, rest: float, seeds: int, cases: int) -> dict[str, str]:
    row = {"rest": f"{rest:g}", "seeds": str(seeds), "cases": str(cases)}
    for ratio in RATIOS:
        of_seed = share_of(ratio)
        p, width = test([simulate(random, trials, seeds, cases, ratio, rest)])
        error = np.sqrt(of_seed / seeds + (1 - of_seed) / cases + rest / (seeds * cases))
        row[f"seed / case {ratio:g}"] = f"{100 * np.mean(p > LEVEL):.1f} ({np.mean(width) / error:.1f})"
    return row


def share_of(ratio: float) -> float:
    return 1.0 if np.isinf(ratio) else ratio / (1 + ratio)


def simulate(random: np.random.Generator, trials: int, seeds: int, cases: int, ratio: float, rest: float) -> Scores:
    """Differences (trials, seeds, cases) with a true mean of 0."""
    of_seed = random.normal(0, np.sqrt(share_of(ratio)), (trials, seeds, 1))
    of_case = random.normal(0, np.sqrt(1 - share_of(ratio)), (trials, 1, cases))
    return of_seed + of_case + random.normal(0, np.sqrt(rest), (trials, seeds, cases))


def test(groups: list[Scores]) -> tuple[Scores, Scores]:
    """p of each experiment, and the width of the interval of the first thousand."""
    variances, degrees = variance_terms(groups)
    mean = groups[0].mean((1, 2)) - (groups[1].mean((1, 2)) if len(groups) > 1 else 0)
    error = np.sqrt(variances.sum(-1))
    return p_value(np.abs(mean) / error, variances, degrees), 2 * error[:1000] * critical(variances[:1000], degrees)


def line(what: str, p: Scores, ours: Scores, theirs: Scores, same_seeds: bool = True) -> dict[str, str]:
    called = [compare(*pair, same_seeds).verdict in (BETTER, WORSE) for pair in zip(ours[:2000], theirs, strict=False)]
    held = f"{100 * np.mean(p > LEVEL):.1f}"
    return {"also": what, "coverage": held, "no difference called one": f"{100 * np.mean(called):.1f} %"}


def one_seed(random: np.random.Generator, trials: int) -> list[dict[str, str]]:
    """Two sets of weights that do not differ on average; the cases are drawn."""
    groups = [(cases, random.normal(0, 1, (trials, 1, cases))) for cases in CASES]
    return [line(f"one seed, {cases} cases", test([ours])[0], ours, 0 * ours) for cases, ours in groups]


def own_seeds(random: np.random.Generator, trials: int, cases: int = 9) -> list[dict[str, str]]:
    """Groups that share the cases, but no seed; the second varies twice as much over seeds as the first."""
    lines = []
    for many in ((3, 3), (5, 5), (3, 5), (1, 3)):
        ours, theirs = (simulate(random, trials, seeds, cases, 0.25, 0.5) for seeds in many)
        theirs += random.normal(0, np.sqrt(0.6 * (1 not in many)), (trials, many[1], 1))
        what = f"{many[0]} against {many[1]} other seeds, {cases} cases"
        lines.append(line(what, test([ours, theirs])[0], ours, theirs, same_seeds=False))
    return lines


def of_auroc(random: np.random.Generator, trials: int, negative: int = 30, positive: int = 10) -> dict[str, str]:
    """Two answers that rank the same images equally well, and apart."""
    from utils.runs.comparison import auroc  # loads torch

    target = np.repeat([0, 1], [negative, positive])
    values = np.empty((2, trials, 1, len(target)))
    for trial in range(trials):
        shared = 1.5 * target + random.normal(size=len(target))
        for group in range(2):
            answer = shared + random.normal(0, 0.5, len(target))
            probability = np.stack([-answer, answer], 1)
            values[group, trial, 0] = jackknife(lambda kept, of=probability: auroc(of[kept], target[kept]), len(target))
    return line("AUROC of 40 images, one seed", test([values[0] - values[1]])[0], *values)


if __name__ == "__main__":
    sys.exit(main())
