"""What the result of a run depends on, and whether two results depend on the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from datasets.slices.fingerprints import store_fingerprint
from utils.leaderboard.plan import Plan, PlannedRun
from utils.recipe.schema import ROOT
from utils.training import checkpoints

NAMES = {"command": "command", "recipes_sha256": "recipe", "data_fingerprint": "data", "teacher_sha256": "teacher"}


def fingerprint(plan: Plan, run: PlannedRun) -> dict[str, Any]:
    """A run's command, the content of its recipe files, its slices where they are there, and its teacher, if any."""
    command = [part.removeprefix(f"{ROOT}/") for part in run.command[1:]]  # the repository may move
    recipes = [recipe_content(Path(file)) for file in run.configs]
    index = _data_root(recipes, run.flags) / "index.csv"
    taught, teacher = any(flag.startswith("--teacher=") for flag in run.flags), plan.teacher_checkpoint
    return {
        "command": command,
        "recipes_sha256": hashlib.sha256(json.dumps(recipes, sort_keys=True).encode()).hexdigest(),
        "data_fingerprint": _data(index, index.stat().st_mtime_ns) if index.is_file() else None,
        "teacher_sha256": _sha256(teacher, teacher.stat().st_mtime_ns) if taught else None,
    }


def difference(known: Mapping[str, Any], asked: Mapping[str, Any]) -> str | None:
    """What two fingerprints do not share, in a word; None where they are the same, or the data are gone."""
    for key, name in NAMES.items():
        unknown = key == "data_fingerprint" and None in (known.get(key), asked.get(key))
        if not unknown and known.get(key) != asked.get(key):
            return name
    return None


def _data_root(recipes: Sequence[Any], flags: Sequence[str]) -> Path:
    """The data's folder: the last flag that names it (--data.root X or --data.root=X), otherwise the last recipe."""
    sections = [(recipe or {}).get("data") or {} for recipe in recipes]
    roots = [section["root"] for section in sections if "root" in section]
    for part, following in pairwise([*flags, ""]):
        flag, separator, value = part.partition("=")
        if flag == "--data.root":
            roots.append(value if separator else following)
    return Path(roots[-1] if roots else "")


@cache
def _data(index: Path, _modified: int) -> str:
    """The fingerprint of an index's slices; of damaged slices, which no run can be trained on, what is wrong."""
    try:
        return store_fingerprint(index.parent)
    except ValueError as error:
        return str(error)


def recipe_content(recipe: Path) -> Any:
    """A recipe without its comments, which may change. Raises ValueError where it is not YAML."""
    try:
        return yaml.safe_load(recipe.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{recipe}: not valid YAML: {' '.join(str(error).split())}") from None


@cache
def _sha256(file: Path, _modified: int) -> str:
    return checkpoints.sha256(file)
