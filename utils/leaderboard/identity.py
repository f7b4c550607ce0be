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

from datasets.store import read_index
from utils import checkpoints
from utils.leaderboard.plan import Plan, Run

NAMES = {"command": "command", "recipes_sha256": "recipe", "data_sha256": "data", "teacher_sha256": "teacher"}


def fingerprint(plan: Plan, run: Run) -> dict[str, Any]:
    """A run's command, what its recipe files say, its slices' index and sizes, and its teacher where it has one."""
    script, *flags = run.command[1:]
    recipes = [_said(Path(file)) for flag, file in pairwise(flags) if flag == "--config"]
    index = _data_root(recipes, flags) / "index.csv"
    taught, teacher = any(part.startswith("--teacher=") for part in flags), plan.teacher_checkpoint
    return {
        "command": [Path(script).name, *flags],  # the repository may move
        "recipes_sha256": hashlib.sha256(json.dumps(recipes, sort_keys=True).encode()).hexdigest(),
        "data_sha256": _slices(index, index.stat().st_mtime_ns) if index.is_file() else None,
        "teacher_sha256": _sha256(teacher, teacher.stat().st_mtime_ns) if taught else None,
    }


def difference(known: Mapping[str, Any], asked: Mapping[str, Any]) -> str | None:
    """What two fingerprints do not share, in a word; None where they are the same."""
    return next((name for key, name in NAMES.items() if known.get(key) != asked.get(key)), None)


def _data_root(recipes: Sequence[Any], flags: Sequence[str]) -> Path:
    """The data's folder: the last flag that names it, otherwise the last recipe."""
    roots = [recipe["data"]["root"] for recipe in recipes if "root" in (recipe or {}).get("data", {})]
    roots += [flag.partition("=")[2] for flag in flags if flag.startswith("--data.root=")]
    return Path(roots[-1] if roots else "")


def _said(recipe: Path) -> Any:
    """What a recipe says; comments may change. Raises ValueError where it is no YAML."""
    try:
        return yaml.safe_load(recipe.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{recipe}: not valid YAML: {' '.join(str(error).split())}") from None


@cache
def _slices(index: Path, _modified: int) -> str:
    """Of the index and the sizes of the files it lists, which are compressed: other contents have another size."""
    sizes = [(index.parent / record.file).stat().st_size for record in read_index(index.parent)]
    return hashlib.sha256(index.read_bytes() + json.dumps(sizes).encode()).hexdigest()


@cache
def _sha256(file: Path, _modified: int) -> str:
    return checkpoints.sha256(file)
