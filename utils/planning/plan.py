"""From data to a plan: a teacher's and a student's recipe, and a page that says why."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from datasets.slices.neighbors import channels_of
from networks import SEGMENTATION
from utils.planning import choices, memory, recipes
from utils.planning.budget import STUDENTS, spend
from utils.planning.choices import Choice, PixelGrid
from utils.planning.dry_step import Trial
from utils.planning.fingerprint import Fingerprint
from utils.planning.locator import write_locator
from utils.planning.memory import Forecast
from utils.planning.page import write_plan
from utils.planning.planned import Plan
from utils.planning.sources import of_raw, of_store
from utils.recipe.methods import DEFAULT, method_file
from utils.recipe.registry import check
from utils.tables import table

SCRIPTS = {"teacher": "train.py", "student": "train_kd.py"}
PAGE = "plan.html"
STUDENT = "enet"


@dataclass(frozen=True)
class Wanted:
    """What is asked for; see scripts/Plan.py.

    Args:
        student: None: the default, or the best that fits the budget.
        budget: Seconds for a volume like these; None: no limit.
        locate: Plan a locator instead of a teacher and a student.
        store: The slice store; with `raw` the one that is to be made.
        raw: Raw volumes that are not sliced yet, in the layout `dataset`.
    """

    store: Path
    raw: Path | None
    dataset: str | None
    channel: int | None
    task: str | None
    teacher: str
    student: str | None
    budget: float | None
    locate: bool
    output: Path


def make_plan(wanted: Wanted, command: str) -> int:
    """Write the recipes and the page, and print what to run. command: what is run, for the page.

    Raises ValueError where nothing can be planned, or a file is there that no plan wrote.
    """
    for flag, name in (("--teacher", wanted.teacher), ("--student", wanted.student or STUDENT)):
        check(SEGMENTATION, {"name": name}, flag)
    if wanted.locate:
        return write_locator(_fingerprint(wanted), wanted.student, wanted.output)
    files = {role: wanted.output / f"{role}.yaml" for role in ("teacher", "student")}
    recipes.refuse_foreign(list(files.values()))
    plan = plan_of(_fingerprint(wanted), wanted)
    texts = {
        files[role]: recipes.as_text(recipe, _remarks(role, files[role], plan)) for role, recipe in plan.recipes.items()
    }
    page = wanted.output / PAGE
    commands = [plan.command] if plan.command else []
    commands += [recipes.train_command(SCRIPTS[role], file) for role, file in files.items()]
    write_plan(page, plan, command, commands)
    recipes.write(texts)
    for line in _summary(plan):
        print(line)
    print(f"wrote {', '.join(map(str, (*files.values(), page)))}; to run:")
    for line in commands:
        print(f"  {line}")
    return 0


def _fingerprint(wanted: Wanted) -> Fingerprint:
    if wanted.raw is None:
        fingerprint = of_store(wanted.store, wanted.task)
    else:
        fingerprint = of_raw(wanted.dataset or "", wanted.raw, wanted.store, wanted.task, wanted.channel)
    fingerprint.refuse_useless()
    return fingerprint


def plan_of(fingerprint: Fingerprint, wanted: Wanted) -> Plan:
    """Every choice, and the forecasts that the batch depends on."""
    spacing, budget = choices.choose_spacing(fingerprint), None
    student = Choice(wanted.student or STUDENT, "as asked for" if wanted.student else "the default")
    if wanted.budget is not None:
        students = [wanted.student] if wanted.student else STUDENTS
        budget = spend(fingerprint, PixelGrid(spacing.value, fingerprint.slice_spacing), students, wanted.budget)
        spacing, student = budget.spacing, budget.student
    grid = PixelGrid(spacing.value, fingerprint.slice_spacing)
    chosen = {"spacing": spacing, "data.task": _task(fingerprint, wanted), **choices.of_data(fingerprint, grid)}
    names = {"teacher": wanted.teacher, "student": student.value}
    networks = {role: recipes.network_section(name, chosen["data.crop"].value) for role, name in names.items()}
    default = yaml.safe_load(DEFAULT.read_text(encoding="utf-8"))
    terms = yaml.safe_load(method_file(default["method"]).read_text(encoding="utf-8"))["distillation"]
    kept = choices.kept_slices(fingerprint, chosen["data.thin_background"].value)
    batch = choices.batch_of(chosen["data.crop"].value, kept)
    forecasts = _forecasts(fingerprint, grid, chosen, networks, terms, batch.value)
    batch = _fitting(batch, forecasts)
    epochs, rate = choices.schedule_of(kept, batch.value)
    chosen |= {"training.epochs": epochs, "training.batch_size": batch, "training.learning_rate": rate}
    root = fingerprint.store
    root = root if grid.spacing is None else root.with_name(f"{root.name}_{grid.spacing:g}mm")
    there = fingerprint.exists and grid.spacing is None
    chosen["network (student)"] = student
    return Plan(
        fingerprint=fingerprint,
        root=root,
        choices=chosen,
        command=None if there else recipes.slice_command(fingerprint, root, grid),
        forecasts=forecasts,
        recipes=_recipes(root, chosen, networks, default),
        budget=budget,
    )


def _task(fingerprint: Fingerprint, wanted: Wanted) -> Choice:
    if wanted.task:
        return Choice(wanted.task, "as asked for")
    why = "the store's own" if fingerprint.exists else "what SliceMaker.py takes where nothing else is asked for"
    return Choice(fingerprint.task, why)


def _forecasts(
    fingerprint: Fingerprint,
    grid: PixelGrid,
    chosen: dict[str, Choice],
    networks: dict[str, dict[str, Any]],
    terms: list[dict[str, Any]],
    batch: int,
) -> dict[str, Forecast]:
    """What each training takes; that of the student has the teacher beside it."""
    crop = chosen["data.crop"].value
    thin, neighbors = (chosen[f"data.{key}"].value for key in ("thin_background", "neighbors"))
    distance = chosen["data.neighbor_mm"].value if "data.neighbor_mm" in chosen else None
    held = memory.data_bytes(fingerprint, grid, thin, neighbors, distance)
    found = {}
    for role, network in networks.items():
        trial = Trial(
            network=network,
            teacher=networks["teacher"] if role == "student" else None,
            distillation=terms if role == "student" else [],
            task_loss=recipes.TASK_LOSS,
            in_channels=channels_of(chosen["data.neighbors"].value),
            class_names=fingerprint.class_names,
            batch=batch,
            side=crop,
            size=list(memory.validation_size(fingerprint, grid, crop)),
        )
        print(f"trying a training step of the {role}, {network['name']} ...", file=sys.stderr, flush=True)
        found[role] = memory.forecast(trial, held)
    return found


def _fitting(batch: Choice, forecasts: dict[str, Forecast]) -> Choice:
    """The batch that both trainings have room for."""
    fits = min(forecast.batch for forecast in forecasts.values())
    if fits == batch.value:
        return batch
    limit = min(forecast.limit for forecast in forecasts.values())
    return Choice(fits, f"{batch.value} images do not fit into {limit / 1e9:.1f} GB")


def _recipes(
    root: Path, chosen: dict[str, Choice], networks: dict[str, dict[str, Any]], default: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """The recipes by role; `default` names the method of the student."""
    outputs = {role: f"runs/{root.name}_{role}" for role in networks}
    made = {role: recipes.recipe_of(outputs[role], root, chosen, network) for role, network in networks.items()}
    made["student"] |= {"teacher": f"{outputs['teacher']}/best.ckpt", **default}
    return made


def _remarks(role: str, file: Path, plan: Plan) -> list[str]:
    """The first lines of a recipe."""
    network = plan.recipes[role]["network"]["name"]
    return [
        f"{role} {network} for {plan.root}; plan.html beside this says why.",
        recipes.train_command(SCRIPTS[role], file),
        *([f"It needs that store first: {plan.command}"] if plan.command else []),
    ]


def _summary(plan: Plan) -> list[str]:
    """What was chosen, and what a training takes."""
    lines = [] if plan.budget is None else [*table(plan.budget.rows).splitlines(), ""]
    lines += recipes.listed(plan.choices)
    batch = plan.choices["training.batch_size"].value
    for role, forecast in plan.forecasts.items():
        lines.append(
            f"{role:22} {plan.recipes[role]['network']['name']}: {forecast.peak(batch) / 1e9:.2f} GB of "
            f"{forecast.limit / 1e9:.1f} GB on {forecast.device}, about {plan.minutes(role):.0f} min"
        )
    return lines
