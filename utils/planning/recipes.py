"""The files of a plan: recipes as YAML, and that none replaces what somebody else wrote or changed."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from datasets.files import write_texts
from utils.planning.choices import SMALL_CROP, Choice, PixelGrid
from utils.planning.fingerprint import Fingerprint

TASK_LOSS, METRIC = {"name": "dice_ce"}, {"name": "volume_dice"}
MARK = "# Planned by scripts/Plan.py "
FIRST_LINE = re.compile(re.escape(MARK) + r"\(([0-9a-f]{12})\): ")


def as_text(recipe: dict[str, Any], lines: Sequence[str]) -> str:
    """A recipe as YAML below some lines of comment, the first of which carries a hash of the rest."""
    body = "".join(f"# {line}\n" for line in lines[1:])
    body += yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100)
    return f"{MARK}({_digest(body)}): {lines[0]}\n{body}"


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode(errors="surrogateescape")).hexdigest()[:12]


def refuse_foreign(files: Sequence[Path]) -> None:
    """Raises ValueError where a recipe is there that was not planned, or was changed since."""
    for file in files:
        if not file.exists():
            continue
        text = file.read_text(encoding="utf-8", errors="surrogateescape") if file.is_file() else ""
        first, _, body = text.partition("\n")
        match = FIRST_LINE.match(first)
        if match is None:
            raise ValueError(f"{file}: is there already, and no plan wrote it: choose another --output")
        if match[1] != _digest(body):
            raise ValueError(f"{file}: was changed since it was planned: rename it, or choose another --output")


def write(texts: dict[Path, str]) -> None:
    """Write recipes together, or none of them."""
    for file in texts:
        file.parent.mkdir(parents=True, exist_ok=True)
    write_texts(texts)


def recipe_of(output: str, root: Path, chosen: Mapping[str, Choice], network: dict[str, Any]) -> dict[str, Any]:
    """A recipe of the choices whose keys name a section and a value of it."""
    sections: dict[str, dict[str, Any]] = {"data": {"name": "slices", "root": str(root)}, "training": {}}
    for key, choice in chosen.items():
        section, _, name = key.partition(".")
        if name and choice.value is not None:
            sections[section][name] = choice.value
    rest = {"network": network, "task_loss": TASK_LOSS, "metric": METRIC, "training": sections["training"]}
    return {"output": output, "seed": 0, "data": sections["data"], **rest}


def network_section(name: str, crop: int) -> dict[str, Any]:
    """A network as a recipe names it: ResNet-18 keeps an eighth of a small crop's side, not a thirty-second."""
    return {"name": name} | ({"output_stride": 8} if name in ("resnet18", "resnet_18") and crop <= SMALL_CROP else {})


def slice_command(fingerprint: Fingerprint, store: Path, grid: PixelGrid) -> str:
    """The command that makes a store; it has the split of the one that the plan was made from."""
    words = ["--inpath", str(fingerprint.raw or "RAW"), "--outpath", str(store)]
    words += ["--dataset", fingerprint.dataset, "--task", fingerprint.task]
    words += ["--spacing", f"{grid.spacing:g}"] if grid.spacing is not None else []
    words += ["--slice_spacing", f"{grid.slice_spacing:g}"] if grid.slice_spacing is not None else []
    words += ["--channel", str(fingerprint.channel)] if fingerprint.channel is not None else []
    words += ["--split_file", str(fingerprint.store / "split.json")] if fingerprint.exists else []
    return f"python scripts/SliceMaker.py {shlex.join(words)}"


def train_command(script: str, file: Path) -> str:
    """The command that trains by a planned recipe."""
    return f"python {script} --config {shlex.quote(str(file))}"


def listed(chosen: Mapping[str, Choice]) -> list[str]:
    """A line for each choice."""
    return [f"{key:22} {inline(choice.value)}: {choice.why}" for key, choice in chosen.items()]


def inline(value: Any) -> str:
    """A value on one line, as YAML has it."""
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("\n").removesuffix("\n...")
