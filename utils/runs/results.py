"""Test results of runs: read from test.json, and whether two of them may be compared at all."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.evaluation.kind import IMAGES, kind_of_rows
from utils.evaluation.targets import Rows, other_targets, place_name

WHOLE = {"checkpoint_sha256": str, "data": dict, "cases": int, "scores": dict, "empty_mask_rule": str}


def is_distilled(recipe: Mapping[str, Any]) -> bool:
    """Whether a run of this recipe was trained by train_kd.py: by a teacher, or by itself (self-distillation)."""
    return bool(recipe.get("distillation") or recipe.get("teacher"))


def labels_seen(recipes: Mapping[str, Mapping[str, Any]]) -> str:
    """What every page says behind `labels:`, naming those of the runs that learned a teacher's answers alone.

    recipes: of the runs by their names, which may be empty. Empty where all runs saw labels.
    """
    names = [name for name, recipe in recipes.items() if recipe.get("task_loss", {}) is None]
    if not names:
        return ""
    of = f" by {', '.join(names)}" if any(names) else ""
    return f"none was seen in training{of}: a teacher's answers were learned, and its agreement chose the epoch"


def test_command(folder: Path, recipe: Mapping[str, Any] | None = None) -> str:
    """The command that scores the run in a folder on its test split. recipe: of its checkpoint, where that is read."""
    script = "train_kd.py" if recipe and is_distilled(recipe) else "train.py"
    command = f"python {script} --config {shlex.quote(str(folder / 'config.yaml'))} --mode test"
    if recipe is None or Path(str(recipe.get("output"))).resolve() != folder.resolve():
        command += f" --output {shlex.quote(str(folder))}"
    return command


def read_test(folder: Path, sha256: str, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The test result of the run in a folder.

    sha256, recipe: of its best.ckpt. Raises ValueError where test.json is missing, damaged, or of other weights.
    """
    file, command = folder / "test.json", test_command(folder, recipe)
    if not file.exists():
        raise ValueError(f"{folder}: has no test.json: {command} writes it")
    content = read_result(file, f"{command} writes it again")
    if content["checkpoint_sha256"] != sha256:
        raise ValueError(f"{file}: was made by an earlier best.ckpt: {command} scores the present one")
    return content


def read_result(
    file: Path, again: str = "then test the run again (--mode test)", rows_only: bool = False
) -> dict[str, Any]:
    """What --mode test wrote to a file.

    again: how it is written again. rows_only: a file that holds the rows of its cases and nothing else will do, too.
    Raises ValueError where it is damaged or holds something else, and OSError.
    """
    fault: str | None = "is damaged, or not a test result"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        rows = content["rows"]
        if not rows_only and not (content["scores"] and content["empty_mask_rule"]):
            fault = "holds no scores"
        elif rows_only or all(isinstance(content[key], kind) for key, kind in WHOLE.items()):
            fault = fault_of(rows)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    if fault:
        raise ValueError(f"{file}: {fault}: move it away; {again}")
    return content


def fault_of(rows: Rows) -> str | None:
    """What is wrong with the rows of a test result, such as a score that is not a number; None where they are right.

    Raises KeyError or TypeError where they are not rows of cases at all.
    """
    if not rows:
        return "holds no case"
    places = set()
    kind = kind_of_rows(rows)
    classes = len(kind.values(rows[0]))
    for row in rows:
        place = row["case"], None if kind is IMAGES else row["class"]
        if place in places:
            return f"holds {place_name(place)} twice"
        places.add(place)
        values = kind.values(row)
        if kind is IMAGES and (len(values) != classes or not 0 <= row["target"] < classes):
            return f"the classes of {row['case']} are not those of {rows[0]['case']}"
        if not values or not all(isinstance(value, int | float) and math.isfinite(value) for value in values):
            return f"a score of {place_name(place)} is not a number"
    return None


def other_data(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], names: tuple[str, str], images: bool = False
) -> str | None:
    """How the targets of two test results (test.json) differ: also where as many voxels lie elsewhere, by the digests
    that newer results record. None where no difference can be seen.

    images: whether other test images are a difference, too.
    """
    if found := other_targets(ours["rows"], theirs["rows"], names):
        return found
    first, second = ours.get("target_digests") or {}, theirs.get("target_digests") or {}
    changed = sorted(case for case in first.keys() & second.keys() if first[case] != second[case])
    if changed:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        return f"{changed[0]}{more}: the target of {names[0]} is not that of {names[1]}, though their sizes are equal"
    prints = ours.get("data_fingerprint"), theirs.get("data_fingerprint")
    if images and None not in prints and prints[0] != prints[1]:
        return f"the test images of {names[0]} are not those of {names[1]}"
    return None


def same_weights(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    """Whether two checkpoints hold the same weights, as those of one run given twice do."""
    first, second = ours["weights"], theirs["weights"]
    return first.keys() == second.keys() and all(
        value.dtype == second[name].dtype and value.equal(second[name]) for name, value in first.items()
    )
