"""What a run folder says: its recipe, its weights and their scores."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from networks import NETWORKS
from utils.evaluation.inference import make_metrics
from utils.evaluation.kind import IMAGES, Kind, kind_of
from utils.runs.results import other_data, read_test, same_weights
from utils.training import checkpoints

EVALUATED = "best_test_scores.json"  # what scripts/evaluate.py leaves beside best.ckpt


@dataclass(frozen=True)
class Run:
    """A finished run: `rows` are its test scores case by case, those of val where it was not tested."""

    folder: Path
    checkpoint: dict[str, Any]
    sha256: str
    file_bytes: int
    split: str
    scores: dict[str, float]
    rows: list[dict[str, Any]]
    rule: str
    surfaces: list[dict[str, Any]] | None
    target_digests: dict[str, str] | None = None
    fingerprint: str | None = None  # of the test data

    @property
    def result(self) -> dict[str, Any]:
        """What `other_data` compares."""
        return {"rows": self.rows, "target_digests": self.target_digests}

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
    """The run in `folder`, and a line for each file that it lacks.

    Raises ValueError naming the folder where there is no checkpoint, and OSError.
    """
    file = folder / "best.ckpt"
    if not file.is_file():
        raise ValueError(f"{folder}: has no best.ckpt; give the output folder of train.py or train_kd.py")
    checkpoint = checkpoints.load(file)
    recipe = checkpoint["recipe"]
    for section in ("data", "network", "metric", "training"):
        if section not in recipe:
            raise ValueError(f"{file}: its recipe has no {section}; it was not written by train.py or train_kd.py")
    digest = checkpoints.sha256(file)
    notes = []
    try:
        tested = read_test(folder, digest, recipe)
    except ValueError as error:
        tested = None
        notes.append(f"{error}; its scores here are those of val")
    known = tested or {
        "scores": checkpoint["scores"]["scores"],
        "rows": checkpoint["scores"]["cases"],
        "empty_mask_rule": _rule(checkpoint),
    }
    run = Run(
        folder=folder,
        checkpoint=checkpoint,
        sha256=digest,
        file_bytes=file.stat().st_size,
        split="test" if tested else "val",
        scores=known["scores"],
        rows=known["rows"],
        rule=known["empty_mask_rule"],
        surfaces=_evaluated(folder / EVALUATED, digest, notes),
        target_digests=known.get("target_digests"),
        fingerprint=known.get("data_fingerprint"),
    )
    return run, notes


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


def _rule(checkpoint: dict[str, Any]) -> str:
    names = checkpoint["preprocessing"]["class_names"]
    return make_metrics(checkpoint["recipe"]["metric"], names)[0].empty_mask_rule


def once_each(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """The runs without those that are there twice (through a link, or as a copy), and a line for each of those."""
    kept: list[Run] = []
    notes = []
    for run in runs:
        twin = next((other for other in kept if same_weights(run.checkpoint, other.checkpoint)), None)
        if twin is None:
            kept.append(run)
        else:
            notes.append(f"{run.folder}: is the same run as {twin.folder}: left out, it is no further seed")
    return kept, notes


def of_one_dataset(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """The runs that share data split, classes, metric and targets with most of the others, and a line for each that
    does not.

    Runs of other patients, classes or targets cannot be paired with these case by case.
    """

    def kind(run: Run) -> tuple:
        return run.split_sha256, tuple(run.class_names), run.recipe["metric"]["name"], run.rule

    kinds = [kind(run) for run in runs]
    common = max(kinds, key=kinds.count)  # of equals the first
    reference = runs[kinds.index(common)]
    kept, notes = [], []
    for run in runs:
        for what, ours, theirs in zip(("split", "classes", "metric", "rule"), kind(run), common, strict=True):
            if ours != theirs:
                ours, theirs = (value[:12] if what == "split" else value for value in (ours, theirs))
                notes.append(
                    f"{run.folder}: {what} {ours} of {run.data}, but {reference.folder} has {theirs} of "
                    f"{reference.data}: they cannot be paired, it is left out; make a report of its own"
                )
                break
        else:
            kept.append(run)
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
