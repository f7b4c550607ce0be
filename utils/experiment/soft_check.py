"""What is checked of soft maps before the first step: whom their teacher saw, its classes, and its scores."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from datasets import DATASETS
from datasets.findings import listed
from datasets.slices.dataset import SliceDataset
from datasets.slices.soft_classes import class_rows
from datasets.slices.taught import SoftTeacher
from utils.evaluation.agreement import TeachersLabels
from utils.experiment.guards import refuse_shared
from utils.experiment.prepare import Experiment
from utils.recipe.registry import build
from utils.tables import table

SUSPICIOUS = 0.1  # Dice of a class below which a teacher hardly knows it, or its maps lie otherwise


def check_soft_teacher(experiment: Experiment) -> None:
    """Refuses a leak, and prints what becomes of each class, and the scores of the maps on val.

    The slices of the training cases were compared when their maps were opened. Raises ValueError.
    """
    recipe, fabric, soft = experiment.recipe, experiment.fabric, experiment.soft
    if not recipe.allow_leak:
        refuse_soft_leak(soft, experiment.train.cases, experiment.split)
    assert isinstance(experiment.train, SliceDataset)
    ours, matrix = experiment.train.class_names, experiment.train.taught.matrix
    _refuse_untaught([name for name, taught in zip(ours, matrix.any(axis=0), strict=True) if not taught], experiment)
    if recipe.metric.get("against") == "teacher":
        experiment.targets = soft_targets(soft, recipe.data, "val")
    lines = [_origin(soft), table(class_rows(soft.class_names, ours, matrix)), _scored(experiment, matrix.any(axis=0))]
    if fabric.is_global_zero:
        print("\n".join(lines), flush=True)


def _refuse_untaught(lacking: Sequence[str], experiment: Experiment) -> None:
    """Raises ValueError where neither teacher nor labels say where a class is: it would be taught to be nowhere."""
    train = experiment.train
    if lacking and train.unlabeled:
        raise ValueError(
            f"{experiment.soft.maps[0].folder}: its teacher has no {', '.join(lacking)}, and {len(train.unlabeled)} of "
            f"{len(train.patients)} training patients have no labels: there it would be taught to be nowhere; take the "
            "teacher's classes alone (--data.task, or data.class_names of a store without labels), or labeled patients "
            "alone (no data.pool, --data.labeled 1)"
        )


def refuse_soft_leak(soft: SoftTeacher, cases: Sequence[str], split: Mapping[str, Any]) -> None:
    """Raises ValueError when what taught `cases` was trained on val or test patients of a student, or selected on test.

    Only the teachers of these cases count: of several folds each case has those that did not see it.
    """
    for maps in soft.maps:
        numbers = {number for case in cases if case in maps.cases for number in maps.cases[case].teachers}
        for number in sorted(numbers):
            theirs = maps.patients.get(str(number))
            if theirs is None:
                raise ValueError(
                    f"{maps.folder}: whom its teacher {number} was trained on is not known; give --allow_leak to go on "
                    "without knowing of a leak"
                )
            refuse_shared(theirs, split, f"{maps.folder}: its teacher {number}'s")


def _origin(soft: SoftTeacher) -> str:
    """A line about each folder: what made it, and by whose leave."""
    lines = []
    for maps in soft.maps:
        teachers = ", ".join(f"{each.get('kind')} {each.get('path')}" for each in maps.made_by["teachers"])
        lines.append(f"teacher: soft maps {maps.folder}, of {teachers} (license: {maps.license or 'not said'})")
    return "\n".join(lines)


def _scored(experiment: Experiment, taught: Sequence[bool]) -> str:
    """A line about the scores of the maps on the val cases that have some, for each class that the teacher has.

    Below it a warning for each class that val has and the maps do not show.
    """
    soft, val = experiment.soft, experiment.val
    if not val.has_labels:
        return "teacher: the val cases have no labels, so its soft maps were not scored"
    cases = [case for case in val.cases if soft.of(case) is not None]
    if not cases:
        return "teacher: no val case has soft maps, so these were not scored"
    data = {**experiment.recipe.data, "cache": False}  # each slice is looked at once
    dataset = build(DATASETS, data, "data", split="val", seed=experiment.recipe.seed, maps=soft)
    _, rows = experiment.score(nn.Identity(), cases, "score the soft maps", _Answers(dataset), labels=True)
    what = experiment.metrics()[0].case_score
    of_class = {
        name: [row for row in rows if row["class"] == name]
        for name, is_taught in zip(val.class_names, taught, strict=True)
        if is_taught
    }
    scores = {name: statistics.mean(row[what] for row in mine) for name, mine in of_class.items()}
    each = ", ".join(f"{name} {score:.4f}" for name, score in scores.items())
    on = f"{len(cases)} of {len(val.cases)} val cases"
    lines = [f"teacher: mean {what.replace('_', ' ')} of the soft maps on {on}: {each}"]
    for name, mine in of_class.items():
        there = [row[what] for row in mine if row.get("target_voxels", 1)]  # `published` has rows of these only
        if there and (mean := statistics.mean(there)) < SUSPICIOUS:
            lines.append(
                f"WARNING: the soft maps do not show {name}: their mean {what.replace('_', ' ')} is {mean:.4f} on the "
                f"{len(there)} val cases that have it; is teacher.classes right, and do the maps lie as the slices do "
                "(orientation)?"
            )
    return "\n".join(lines)


def soft_targets(soft: SoftTeacher, data: Mapping[str, Any], split: str) -> TeachersLabels:
    """The classes that soft maps find most probable, in the place of labels. data: the section of a recipe.

    Raises ValueError where a case has no maps.
    """
    dataset = build(DATASETS, {**data, "cache": False}, "data", split=split, maps=soft)
    if missing := [case for case in dataset.cases if soft.of(case) is None]:
        raise ValueError(
            f"{soft.maps[0].folder}: has no soft maps of {len(missing)} {split} cases ({listed(missing)}), on which "
            f"the student is held to its teacher: make them with scripts/TeachWith.py --splits {split}"
        )
    return TeachersLabels(lambda batch: batch["teacher"], dataset)


class _Answers:
    """A split with the answers of its soft maps as images, for a network that returns what it is given."""

    def __init__(self, dataset: SliceDataset) -> None:
        self.dataset, self.cases, self.sizes = dataset, dataset.cases, dataset.sizes
        self.case_indices, self.hold, self.gather = dataset.case_indices, dataset.hold, dataset.gather

    def finish(self, raw: dict[str, Any]) -> dict[str, Any]:
        batch = self.dataset.finish(raw)
        return batch | {"image": batch["teacher"]}

    def batch(self, indices: Sequence[int]) -> dict[str, Any]:
        return self.finish(self.gather(indices))
