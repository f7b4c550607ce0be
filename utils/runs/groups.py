"""Which run is the teacher, which the student alone, which was distilled; runs that differ in their seed are one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

from utils.recipe.methods import METHODS
from utils.runs.run import Run

ACRONYMS = ("dist", "emkd", "hdkd", "hlfd", "skd", "vkd")  # names of methods that papers write in capitals

Role = Literal["teacher", "plain", "distilled"]
ROLES: tuple[Role, ...] = ("teacher", "plain", "distilled")
ROLE_NAMES = {"teacher": "teacher", "plain": "student alone", "distilled": "distilled"}
NOT_THE_RECIPE = {"output", "seed", "mode", "resume", "allow_leak"}


@dataclass(frozen=True)
class Group:
    """Runs of one recipe with different seeds. `control`: name of the group a distilled one is compared with."""

    name: str
    role: Role
    runs: tuple[Run, ...]
    control: str | None = None

    @property
    def first(self) -> Run:
        return self.runs[0]

    @property
    def seeds(self) -> list[int]:
        return [run.seed for run in self.runs]

    @property
    def val_score(self) -> float:
        return sum(run.val_score for run in self.runs) / len(self.runs)


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Teachers, then each student alone followed by those distilled with the same network.

    A recipe with a teacher or terms is distilled; one that a distilled run names as its teacher is one; one with the
    network of a distilled run is its control; any other is a teacher.
    """
    distilled = [run for run in runs if run.distilled]
    teachers = {folder for run in distilled for folder in teacher_folders(run)}
    student_networks = [run.checkpoint["network"] for run in distilled]
    found: dict[str, tuple[Role, list[Run]]] = {}
    for run in runs:
        if run.distilled:
            role: Role = "distilled"
        elif run.folder.resolve() not in teachers and run.checkpoint["network"] in student_networks:
            role = "plain"
        else:
            role = "teacher"
        key = {name: value for name, value in run.recipe.items() if name not in NOT_THE_RECIPE}
        key["distillation"], key["share"] = _asked_terms(run), (run.checkpoint.get("balance") or {}).get("share")
        found.setdefault(yaml.safe_dump([role, key, run.split, run.fingerprint]), (role, []))[1].append(run)
    named = _names([(role, sorted(members, key=lambda run: run.seed)) for role, members in found.values()])
    controls = [group for group in named if group.role == "plain"]
    groups = [Group(g.name, g.role, g.runs, _control(g, controls)) for g in named]
    networks = list(dict.fromkeys(yaml.safe_dump(g.first.checkpoint["network"]) for g in groups))

    def place(group: Group) -> tuple:
        family = networks.index(yaml.safe_dump(group.first.checkpoint["network"]))
        return group.role != "teacher", family, ROLES.index(group.role)

    return sorted(groups, key=place)


def chosen_student(groups: Sequence[Group]) -> Group | None:
    """The distilled group with the best score on val: the one that cases and attention are shown for."""
    distilled = [group for group in groups if group.role == "distilled"]
    return max(distilled, key=lambda group: group.val_score) if distilled else None


def short_names(groups: Sequence[Group]) -> list[str]:
    """Names for narrow places: roles where each is there once."""
    roles = [group.role for group in groups]
    return [ROLE_NAMES[group.role] if roles.count(group.role) == 1 else group.name for group in groups]


def _asked_terms(run: Run) -> list[dict[str, Any]]:
    """A run's terms as they were asked for: `distillation_share` multiplies their weights, differently in each seed."""
    terms = run.recipe.get("distillation", [])
    factor = (run.checkpoint.get("balance") or {}).get("factor", 1.0)
    return [term | {"weight": float(f"{term['weight'] / factor:.6g}")} if "weight" in term else term for term in terms]


def teacher_folders(run: Run) -> list[Path]:
    """Where the runs that taught a run lay; none where it was taught by soft maps, or by itself."""
    given = [run.recipe.get("teacher"), *(each["path"] for each in run.recipe.get("teachers", []))]
    paths = [Path(each) for each in given if isinstance(each, str) and each]
    return [(path.parent if path.suffix else path).resolve() for path in paths]


def telling_apart(folders: Sequence[Path]) -> list[str]:
    """The last parts of paths, as many as it takes for no two different folders to have the same."""
    parts = [folder.resolve().parts for folder in folders]
    for count in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(each[-count:]) for each in parts]
        if len(set(names)) == len(set(parts)):
            break
    return names


def _control(group: Group, controls: Sequence[Group]) -> str | None:
    """The student alone with the network of a distilled group: of several the one trained most alike."""
    if group.role != "distilled":
        return None
    same = [control for control in controls if control.first.checkpoint["network"] == group.first.checkpoint["network"]]

    def alike(control: Group) -> int:
        return sum(control.first.recipe.get(key) == group.first.recipe.get(key) for key in ("data", "training"))

    return max(same, key=alike).name if same else None


def _names(found: Sequence[tuple[Role, list[Run]]]) -> list[Group]:
    names = []
    for role, runs in found:
        network = runs[0].network
        method = method_name(_asked_terms(runs[0]))
        names.append({"teacher": f"{network} teacher", "plain": f"{network} alone"}.get(role, f"{network} {method}"))
    repeated = {name for name, count in Counter(names).items() if count > 1}
    folders = telling_apart([runs[0].folder for _, runs in found])
    return [
        Group(f"{name} ({folder})" if name in repeated else name, role, tuple(runs))
        for name, folder, (role, runs) in zip(names, folders, found, strict=True)
    ]


def method_name(terms: Sequence[dict[str, Any]]) -> str:
    """The published method whose terms these are, else `distilled`."""
    return next((name for name, published in _published_methods() if published == list(terms)), "distilled")


@cache
def _published_methods() -> list[tuple[str, list[dict[str, Any]]]]:
    """The names and terms of `configs/methods`, read once: parsing them takes most of the time of a page."""
    methods = []
    for file in sorted(METHODS.glob("*.yaml")):
        content = yaml.safe_load(file.read_text())
        if isinstance(content, dict) and "distillation" in content:
            first, *others = file.stem.split("_")
            name = " ".join([first.upper() if first in ACRONYMS else first.capitalize(), *others])
            methods.append((name, content["distillation"]))
    return methods
