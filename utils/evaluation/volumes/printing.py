"""Evaluations and comparisons as tables for a person."""

from collections.abc import Mapping, Sequence
from typing import Any

from utils.evaluation.statistics import INTERVAL, RULE
from utils.evaluation.volumes.scores import EMPTY_MASK_RULES
from utils.tables import table


def print_scores(content: Mapping[str, Any]) -> None:
    """The means of an evaluation, a challenge's numbers, and what is to be known about them."""
    print(table([_means(name, scores) for name, scores in content["summary"].items()]))
    print("means over cases; hd95, assd, |rvd|: over (n) cases, where they exist; lesions: sums over cases")
    print(f"dice is {EMPTY_MASK_RULES['dice']}; every rule is in the files")
    if official := content["official"]:
        print(f"\n{official['challenge']}: {official['rule']}")
        print(table([{"score": name, "value": f"{value:.6f}"} for name, value in official["scores"].items()]))
    for note in content["notes"]:
        print(f"note: {note}")


def _means(name: str, scores: Mapping[str, float]) -> dict[str, str]:
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


def print_comparison(names: Sequence[str], lines: Sequence[Mapping[str, Any]]) -> None:
    """What `paired_tests.compare` found for the two evaluations of these names."""
    print(f"A: {names[0]}\nB: {names[1]}\n")
    print(table([_difference(line) for line in lines]))
    print(f"\n95 % intervals of A - B; {RULE}; {INTERVAL}.")
    print("effect: rank-biserial correlation")
    if any(line["left_out"] for line in lines):
        print("(-n): pairs left out because A or B has an empty mask there and so no distance")


def _difference(line: Mapping[str, Any]) -> dict[str, str]:
    left_out = f" (-{line['left_out']})" if line["left_out"] else ""
    ends = "" if line["low"] is None else f" [{line['low']:+.3f}, {line['high']:+.3f}]"
    return {
        "class": line["class"],
        "score": line["score"],
        "cases": f"{line['cases']}{left_out}",
        "A": f"{line['mean']:.3f}",
        "B": f"{line['other_mean']:.3f}",
        "A - B": f"{line['difference']:+.3f}{ends}",
        "p": "" if line["p"] is None else f"{line['p']:.3g}",
        "effect": f"{line['effect']:+.2f}",
        "verdict": line["verdict"],
    }
