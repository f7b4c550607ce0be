"""What a run folder says: its recipe, its weights and their scores."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from networks import NETWORKS
from utils.evaluation.inference import make_metrics
from utils.evaluation.kind import IMAGES, Kind, kind_of
from utils.runs.results import is_distilled, other_data, read_test, same_weights
from utils.training import checkpoints

EVALUATED = "best_test_scores.json"  # what scripts/evaluate.py leaves beside best.ckpt


@dataclass(frozen=True)
class Run:
    """A finished run.

    Args:
        folder: Where it lies.
        checkpoint: Its best.ckpt, and `sha256` of that file.
        split: `test`, or `val` where it was not tested; whose scores `result` holds.
        result: The content of test.json, or what best.ckpt holds of it.
        surfaces: The rows that scripts/evaluate.py wrote of these weights, where it did.
    """

    folder: Path
    checkpoint: dict[str, Any]
    sha256: str
    split: str
    result: Mapping[str, Any]
    surfaces: list[dict[str, Any]] | None = None

    @property
    def scores(self) -> dict[str, float]:
        return self.result["scores"]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The scores case by case."""
        return self.result["rows"]

    @property
    def rule(self) -> str:
        return self.result["empty_mask_rule"]

    @property
    def fingerprint(self) -> str | None:
        """Of the test data, where the result records it."""
        return self.result.get("data_fingerprint")

    @property
    def file_bytes(self) -> int:
        return (self.folder / "best.ckpt").stat().st_size

    @property
    def seed(self) -> int:
        return self.recipe.get("seed", 0)

    @property
    def recipe(self) -> dict[str, Any]:
        return self.checkpoint["recipe"]

    @property
    def class_names(self) -> list[str]:
        return self.checkpoint["preprocessing"]["class_names"]

    @property
    def kind(self) -> Kind:
        return kind_of(self.checkpoint["preprocessing"])

    @property
    def distilled(self) -> bool:
        """Whether it was trained with distillation terms, by a teacher or by itself."""
        return is_distilled(self.recipe)

    @property
    def classifies(self) -> bool:
        return self.kind is IMAGES

    @property
    def split_sha256(self) -> str:
        return self.checkpoint["split"]["sha256"]

    @property
    def data(self) -> str:
        """Where its data lay: the recipe's folder or file."""
        section = self.recipe.get("data", {})
        return str(section.get("root") or section.get("file") or section.get("name") or "unknown")

    @property
    def network(self) -> str:
        """The name of the network's class."""
        name = self.checkpoint["network"]["name"]
        return NETWORKS[name].__name__ if name in NETWORKS else name

    @property
    def selects(self) -> str:
        """The score on val that chose best.ckpt."""
        return make_metrics(self.recipe["metric"], self.class_names)[0].selects

    @property
    def val_score(self) -> float:
        return float(self.checkpoint["scores"]["scores"][self.selects])

    @property
    def size(self) -> int:
        """Side of the image that MACs are counted for: the recipe's."""
        return self.kind.side(self.checkpoint["preprocessing"])


def read_run(folder: Path) -> tuple[Run, list[str]]:
    """The run in `folder`, with its scores on val where it was not tested, and a line for each file that it lacks.

    Raises ValueError naming the folder where there is no checkpoint, and OSError.
    """
    checkpoint, digest = _weights(folder)
    notes: list[str] = []
    split = "test"
    try:
        result = read_test(folder, digest, checkpoint["recipe"])
    except ValueError as error:
        notes.append(f"{error}; its scores here are those of val")
        split, result = "val", _validated(checkpoint)
    return Run(folder, checkpoint, digest, split, result, _evaluated(folder / EVALUATED, digest, notes)), notes


def read_tested(folder: Path) -> Run:
    """The run in `folder` with its scores on test. Raises ValueError where it was not tested, and OSError."""
    checkpoint, digest = _weights(folder)
    return Run(folder, checkpoint, digest, "test", read_test(folder, digest, checkpoint["recipe"]))


def _weights(folder: Path) -> tuple[dict[str, Any], str]:
    """The run's checkpoint, and the SHA-256 of its file."""
    file = folder / "best.ckpt"
    if folder.is_file():
        raise ValueError(f"{folder}: is a file: give the run's folder, {folder.parent}")
    if not folder.exists():
        raise ValueError(f"{folder}: no such folder: give the output folder of train.py or train_kd.py")
    if not file.is_file():
        raise ValueError(f"{folder}: has no best.ckpt; give the output folder of train.py or train_kd.py")
    checkpoint = checkpoints.load(file)
    for section in ("data", "network", "metric", "training"):
        if section not in checkpoint["recipe"]:
            raise ValueError(f"{file}: its recipe has no {section}; it was not written by train.py or train_kd.py")
    return checkpoint, checkpoints.sha256(file)


def _validated(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The scores on val that chose the checkpoint, in the form of a test result."""
    metric = make_metrics(checkpoint["recipe"]["metric"], checkpoint["preprocessing"]["class_names"])[0]
    known = checkpoint["scores"]
    return {"scores": known["scores"], "rows": known["cases"], "empty_mask_rule": metric.empty_mask_rule}


def _evaluated(file: Path, digest: str, notes: list[str]) -> list[dict[str, Any]] | None:
    """The rows of scripts/evaluate.py of these weights, or None."""
    if not file.is_file():
        return None
    try:
        content = json.loads(file.read_text())
        if content["evaluated"]["checkpoint_sha256"] == digest:
            return content["rows"]
        notes.append(f"{file}: was made by an earlier best.ckpt; left out (scripts/evaluate.py writes it anew)")
    except (ValueError, KeyError, TypeError):
        notes.append(f"{file}: cannot be read; left out (scripts/evaluate.py writes it anew)")
    return None


def once_each(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """The runs without those that are there twice (through a link, or as a copy), and a line for each of those."""
    kept: list[Run] = []
    notes = []
    for run in runs:
        twin = next((other for other in kept if same_weights(run.checkpoint, other.checkpoint)), None)
        if twin is None:
            kept.append(run)
        else:
            notes.append(f"{run.folder}: is the same run as {twin.folder}: left out, it is not a further seed")
    return kept, notes


def compared_by(run: Run) -> dict[str, str]:
    """What runs must have in common for their scores to be compared case by case."""
    return {
        "split": run.split_sha256[:12],
        "classes": ", ".join(run.class_names),
        "metric": run.recipe["metric"]["name"],
        "rule": run.rule,
    }


def of_one_dataset(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """The runs that share data split, classes, metric and targets with most of the others, and a line for each that
    does not.

    Runs of other patients, classes or targets cannot be paired with these case by case.
    """

    kinds = [compared_by(run) for run in runs]
    common = max(kinds, key=kinds.count)  # of equals the first
    reference = runs[kinds.index(common)]
    kept, notes = [], []
    for run, found in zip(runs, kinds, strict=True):
        what = next((name for name in common if found[name] != common[name]), None)
        if what is None:
            kept.append(run)
            continue
        notes.append(
            f"{run.folder}: {what} {found[what]} of {run.data}, but {reference.folder} has {common[what]} of "
            f"{reference.data}: they cannot be paired, it is left out; make a report of its own"
        )
    left, more = _of_the_same_targets(kept)
    return left, notes + more


def _of_the_same_targets(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """The runs whose targets (of test, or of val where they were not tested) are those of most others."""

    def apart(run: Run, other: Run) -> str | None:
        if run.split != other.split:
            return None
        return other_data(other.result, run.result, (str(other.folder), str(run.folder)))

    reference = {
        split: max(
            (run for run in runs if run.split == split),
            key=lambda run: sum(apart(run, other) is None for other in runs),
        )
        for split in {run.split for run in runs}
    }
    kept, notes = [], []
    for run in runs:
        if found := apart(run, reference[run.split]):
            notes.append(f"{run.folder}: left out: {found}; test both on the same data")
        else:
            kept.append(run)
    return kept, notes
