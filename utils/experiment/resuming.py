"""What an output folder must hold before a run begins or goes on in it, and whether its data are still the same."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from datasets.findings import listed
from utils.distillation.terms import scaled
from utils.recipe import schema
from utils.recipe.schema import Recipe, Training, soft_folders
from utils.training import checkpoints

# Of a method the terms are compared, not its name.
FREE_ON_RESUME = {"output", "mode", "resume", "allow_leak", "teacher_cache", "teacher_cache_gb", "method"}
FREE_TRAINING = {"epochs", "workers", "graph", "log_every", "share_every", "checkpoint_minutes", "pictures"}
RESULTS = ("best.ckpt", "history.csv", "test.json")
STARTED = ("config.yaml", "leaderboard.json")  # what a run, or the leaderboard that starts it, writes first
KEPT = ("cache", "cache_mb", "device_gb")  # keys of `data` that say where decoded samples are kept
PLACES = ("root", "file", "index", "patients", "pool")  # where data lie; what they hold is compared


def start_or_resume(recipe: Recipe) -> tuple[Recipe, dict[str, Any] | None]:
    """The recipe as it will run, and the content of last.ckpt to go on from, or None.

    The weights of terms that the run scaled for `distillation_share` are taken from its checkpoint. Raises ValueError
    where a folder to start in holds a run, or one to resume holds none or that of another recipe.
    """
    output = Path(recipe.output)
    last = output / "last.ckpt"
    held = [name for name in RESULTS if (output / name).exists()]
    if not recipe.resume:
        if last.exists():
            raise ValueError(f"{output} already holds a run; --resume continues it, --output FOLDER starts another")
        if held:
            raise ValueError(
                f"{output} already holds {', '.join(held)} of another run, which this one would replace; "
                "--output FOLDER starts in another folder"
            )
        return recipe, None
    if not last.exists() and not held and any((output / name).exists() for name in STARTED):
        return recipe, None  # stopped before its first checkpoint
    if not last.exists():
        best = "; nothing can go on from its best.ckpt, which holds weights only" if "best.ckpt" in held else ""
        raise ValueError(
            f"{last}: not found, so there is no run to resume{best}; give the --output of the run that was stopped, or "
            "leave out --resume to start one in an empty folder"
        )
    resumed = checkpoints.load(last)
    if "training" not in resumed:
        raise ValueError(
            f"{last}: holds weights only, there is nothing to resume; give the folder of an unfinished run"
        )
    recipe = _balanced(recipe, resumed.get("balance"))
    if changed := _changed(resumed, schema.as_dict(recipe)):
        raise ValueError(f"{last}: cannot be resumed with another {', '.join(changed)}; start a new --output instead")
    if recipe.training.epochs < resumed["epoch"]:
        raise ValueError(
            f"{last}: {resumed['epoch']} epochs are done, more than training.epochs {recipe.training.epochs}: give as "
            "many, or more"
        )
    best, best_epoch = output / "best.ckpt", resumed["training"]["progress"]["best_epoch"]
    if best_epoch and not best.exists():
        raise ValueError(
            f"{best}: is gone, which held the best weights so far (of epoch {best_epoch}): put it back, or start a new "
            "--output"
        )
    return recipe, resumed


def _balanced(recipe: Recipe, balance: Mapping[str, float] | None) -> Recipe:
    """The recipe with the weights that its `distillation_share` led to when the run began."""
    if balance is None or recipe.distillation_share != balance["share"]:
        return recipe
    return replace(recipe, distillation=scaled(recipe.distillation, balance["factor"]), distillation_share=None)


def _changed(resumed: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The keys of a recipe that must be as they were, and are not, each with both values."""
    free = FREE_ON_RESUME | {f"training.{key}" for key in FREE_TRAINING} | {f"data.{key}" for key in KEPT}
    if "data" in resumed:  # the data and soft maps may lie elsewhere: what they hold is compared
        free |= {"teacher.maps", *(f"data.{key}" for key in PLACES)}
    # A run is older than a key of `training` that it does not have: it ran as the default does.
    then, now = _flat({"training": asdict(Training())}) | _flat(resumed["recipe"]), _flat(now)
    if "teachers" in now:  # a run is older than this key as well
        then = {"teachers": []} | then
    return [
        f"{key} ({then.get(key, 'none')} then, {now.get(key, 'none')} now)"
        for key in dict.fromkeys((*now, *then))
        if key not in free and then.get(key) != now.get(key)
    ]


def _flat(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe with a key such as `data.crop` for each key of a section."""
    flat: dict[str, Any] = {}
    for key, value in recipe.items():
        flat |= {f"{key}.{name}": part for name, part in value.items()} if isinstance(value, dict) else {key: value}
    return flat


def refuse_other_data(
    resumed: dict[str, Any], split: Mapping[str, Any], data: Mapping[str, Any], teacher_sha256: str | None, last: Path
) -> str | None:
    """Raises ValueError when a run cannot go on: patients moved between the splits, or cases or the teacher changed.

    Returns a line to print where a checkpoint does not record what its data held.
    """
    remedy = "give the data as they were, or start a new --output"
    then, now = _split_of(resumed["split"]), _split_of(split)
    both = sorted(then.keys() & now.keys())
    differences = {
        "moved": [f"{name} from {then[name]} to {now[name]}" for name in both if then[name] != now[name]],
        "are new": sorted(now.keys() - then.keys()),
        "are gone": sorted(then.keys() - now.keys()),
    }
    if parts := [f"{len(names)} patients {what}: {listed(names)}" for what, names in differences.items() if names]:
        raise ValueError(f"{last}: the data are not those of this run: {'; '.join(parts)}; {remedy}")
    if teacher_sha256 != resumed.get("teacher_sha256", teacher_sha256):
        what = "has changed since the run began" if teacher_sha256 else "is not there any more"
        folders = ", ".join(soft_folders(resumed["recipe"]["teacher"]))
        given = resumed["recipe"]["teacher"] or ", ".join(
            each["path"] for each in resumed["recipe"].get("teachers", [])
        )
        teacher = f"soft maps {folders}" if folders else f"teacher {given}"
        raise ValueError(f"{last}: its {teacher} {what}; give it as it was, or start a new --output")
    if "data" not in resumed:
        return (
            f"{last} records which patients were in which split, but not what the data held: whether images or labels "
            "have changed since the run began cannot be checked"
        )
    if changed := changed_cases(resumed["data"]["cases"], data["cases"]):
        raise ValueError(f"{last}: the data are not those of this run: {changed}; {remedy}")
    if resumed["data"]["fingerprint"] != data["fingerprint"]:
        raise ValueError(f"{last}: the data are not those of this run: cases or classes are others; {remedy}")
    return None


def changed_cases(then: Mapping[str, Sequence[str]], now: Mapping[str, Sequence[str]]) -> str | None:
    """Which cases that both know hold other images or targets, in words; None where none does."""
    changed = defaultdict(list)
    for case in sorted(then.keys() & now.keys()):
        what = [name for name, old, new in zip(("images", "labels"), then[case], now[case], strict=True) if old != new]
        changed[" and ".join(what)].append(case)
    parts = [f"{what} of {len(cases)} cases changed ({listed(cases)})" for what, cases in changed.items() if what]
    return "; ".join(parts) or None


def _split_of(split: Mapping[str, Any]) -> dict[str, str]:
    return {patient: name for name in ("train", "val", "test") for patient in split[name]}
