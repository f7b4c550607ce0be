"""Soft maps as the teacher of a recipe: read, and refused where its terms need more than logits."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping

import yaml

from datasets import DATASETS
from datasets.slices.soft_maps import read_maps
from datasets.slices.taught import SoftTeacher
from utils.distillation.terms import OWN, Term, asks_teacher
from utils.recipe.methods import method_file, method_names
from utils.recipe.schema import DistillationRecipe


def soft_teacher(recipe: DistillationRecipe, terms: Mapping[str, Term]) -> SoftTeacher | None:
    """The soft maps that teach; None where a network does, or the student itself.

    Raises ValueError for a dataset without soft maps, for a term that reads features, for a folder that is not of soft
    maps, and for folders of other classes.
    """
    if not recipe.maps or not asks_teacher(recipe.distillation):
        return None
    dataset = DATASETS.get(recipe.data.get("name", ""))
    if dataset is not None and "maps" not in inspect.signature(dataset).parameters:
        raise ValueError(f"teacher.maps: soft maps are of slices, not of {recipe.data['name']}: give a checkpoint")
    for name, term in terms.items():
        if features := [tap for tap in term.teacher_taps if tap != "logits" and not tap.startswith(OWN)]:
            raise ValueError(
                f"distillation: the term {name} reads the teacher's {features[0]}, and soft maps hold its logits only: "
                f"choose another method (--loss_type {', '.join(_of_logits())}), or give a checkpoint"
            )
    maps = [read_maps(folder) for folder in recipe.maps]
    for each in maps[1:]:
        if each.classes != maps[0].classes:
            raise ValueError(f"teacher.maps: {each.folder} has other classes than {maps[0].folder}: give one teacher's")
    return SoftTeacher(maps, recipe.teacher.get("classes", {}) if isinstance(recipe.teacher, dict) else {})


def _of_logits() -> Iterator[str]:
    """The methods that read the teacher's logits, and none of its features."""
    for name in method_names():
        sections = yaml.safe_load(method_file(name).read_text(encoding="utf-8")).get("distillation", [])
        if sections and all(section["teacher"] == "logits" for section in sections):
            yield name
