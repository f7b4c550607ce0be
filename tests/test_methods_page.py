"""docs/methods.md has a line for every method, and what can be computed in it is right."""

import csv
import inspect
import re
from collections import Counter

import pytest
import torch
import yaml

from utils.distillation.losses import DISTILLATION_LOSSES
from utils.distillation.terms import read_terms
from utils.recipe.schema import ROOT

BOARDS = ("phantom", "liver", "hippocampus")
VERDICTS = ("better", "no measurable difference", "worse")
METHODS = sorted((ROOT / "configs/methods").glob("*.yaml"))


def page() -> dict[str, list[str]]:
    """The cells of every line of the table by its method: paper, task, labels, classes, taps, verdict."""
    lines = re.findall(r"^\| `(\w+)` \| (.*) \|$", (ROOT / "docs/methods.md").read_text(), flags=re.MULTILINE)
    assert len({name for name, _ in lines}) == len(lines)
    return {name: line.split(" | ") for name, line in lines}


def need_labels(terms: list[dict]) -> str:
    """Whether the terms read the target, by the signature of their losses."""
    forwards = [inspect.signature(DISTILLATION_LOSSES[term["name"]].forward) for term in terms]
    count = sum(forward.parameters["target"].default is inspect.Parameter.empty for forward in forwards)
    return {0: "no", len(terms): "yes"}.get(count, f"{count} of {len(terms)} terms")


def classes(terms: list[dict]) -> str:
    """From how many classes on the terms that compare logits can be computed."""
    logits, target = torch.randn(2, 2, 4, 4), torch.zeros(2, 1, 4, 4, dtype=torch.int64)
    for term in (term for name, term in read_terms(terms, num_classes=2).items() if name.endswith("/logits")):
        try:
            term.loss(logits, logits, target)
        except ValueError:
            return "3 or more"
    return "any"


def short(names: set[str]) -> str:
    """Tap names in order, numbered ones that follow each other as `encoder1..4`."""
    places: dict[str, list[int]] = {}
    for name in names:
        stem, number = re.fullmatch(r"(.*?)(\d*)", name).groups()
        places.setdefault(stem, []).append(int(number or 0))
    shown = []
    for stem, numbers in sorted(places.items()):
        low, high = min(numbers), max(numbers)
        if len(numbers) > 2 and high - low == len(numbers) - 1:
            shown.append(f"`{stem}{low}..{high}`")
        else:
            shown += [f"`{stem}{number or ''}`" for number in sorted(numbers)]
    return ", ".join(shown)


def taps(terms: list[dict]) -> str:
    """The student's taps and the teacher's, once where they are the same."""
    sides = []
    for side in ("student", "teacher"):
        sides.append(
            short({tap for term in terms for tap in ([term[side]] if isinstance(term[side], str) else term[side])})
        )
    return sides[0] if sides[0] == sides[1] else " → ".join(sides)


def verdict(method: str) -> str:
    """How often the boards say what of a method, over their students."""
    counts: Counter[str] = Counter()
    for board in BOARDS:
        with (ROOT / "docs/leaderboards" / f"{board}.csv").open(newline="") as file:
            counts.update(row["verdict"] for row in csv.DictReader(file) if row["method"] == method)
    assert set(counts) <= set(VERDICTS)
    said = ", ".join(f"{counts[name]} {name}" for name in VERDICTS if counts[name])
    return said.replace("no measurable difference", "no difference") or "not measured"


def test_every_method_has_its_line_and_no_other():
    assert sorted(page()) == [path.stem for path in METHODS]


@pytest.mark.parametrize("path", METHODS, ids=lambda path: path.stem)
def test_a_method_s_line_says_what_its_file_and_the_boards_say(path):
    terms = yaml.safe_load(path.read_text())["distillation"]
    paper, task, *computed = page()[path.stem]
    assert computed == [need_labels(terms), classes(terms), taps(terms), verdict(path.stem)]
    assert paper and task in ("both", "segmentation", "classification")
