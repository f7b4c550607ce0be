"""What was trained on what: data, split, and the recipe of every run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml

from datasets.slices.store import read_index
from utils.report.markup import TIMES, Column, details, table, text
from utils.runs.groups import ROLE_NAMES, Group
from utils.runs.run import Run


def show_data(run: Run, root: str | None) -> str:
    """Patients, cases and slices of each split, and the split's hash."""
    rows = []
    counted = _counted(run, root)
    for split in ("train", "val", "test"):
        patients = run.checkpoint["split"].get(split)  # converted weights know none
        rows.append(
            [
                split,
                "not known" if patients is None else str(len(patients)),
                *(str(count) for count in counted.get(split, ())),
            ]
        )
    columns = [Column("split"), Column("images" if run.classifies else "patients", True)]
    columns += [Column("cases", True), Column("slices", True)] if counted else []
    preprocessing = run.checkpoint["preprocessing"]
    facts = [("Data", text(run.data)), ("Classes", text(", ".join(run.class_names)))]
    if run.classifies:
        facts.append(("Images", f"{preprocessing['image_size']}{TIMES}{preprocessing['image_size']}"))
    else:
        window = preprocessing["window"]
        scaled = f"window {window[0]:g} to {window[1]:g} HU" if window else "z-score of each case"
        facts.append(("Images", f"{text(preprocessing['modality'])}, {scaled}"))
    facts.append(("Split", f"<code>{text(run.split_sha256[:16])}</code> (SHA-256), the same for all runs"))
    return f'<div class="facts">{definitions(facts)}{table(columns, rows)}</div>'


def show_runs(groups: Sequence[Group]) -> str:
    """A table of runs, and the recipe of each, folded."""
    columns = [
        Column("run"),
        Column("role"),
        Column("folder"),
        Column("seed", True),
        Column("best epoch", True, "the epoch with the best score on val, of all"),
        Column("val", True, "the score on val that chose the checkpoint"),
        Column("precision"),
        Column("checkpoint", note="SHA-256 of best.ckpt"),
    ]
    rows, recipes = [], []
    for group in groups:
        for run in group.runs:
            training = run.recipe["training"]
            rows.append(
                [
                    text(group.name),
                    chip(group),
                    f"<code>{text(run.folder)}</code>",
                    str(run.recipe.get("seed", 0)),
                    f"{run.checkpoint.get('epoch', '?')} of {training.get('epochs', '?')}",
                    f"{run.val_score:.3f}",
                    text(training.get("precision", "")),
                    f"<code>{run.sha256[:12]}</code>",
                ]
            )
            recipe = yaml.safe_dump(run.recipe, sort_keys=False, allow_unicode=True)
            recipes.append(
                details(
                    f"Recipe of {text(group.name)} <code>{text(run.folder.name)}</code>", f"<pre>{text(recipe)}</pre>"
                )
            )
    return table(columns, rows) + f'<div class="recipes">{"".join(recipes)}</div>'


def chip(group: Group) -> str:
    return f'<span class="chip {group.role}">{ROLE_NAMES[group.role]}</span>'


def definitions(facts: Sequence[tuple[str, str]]) -> str:
    """A list of names (text) and what they are (HTML)."""
    return f"<dl>{''.join(f'<dt>{text(name)}</dt><dd>{value}</dd>' for name, value in facts)}</dl>"


def _counted(run: Run, root: str | None) -> dict[str, tuple[int, int]]:
    """Cases and slices by split; nothing where the slice store is not there."""
    if run.classifies:
        return {}
    try:
        index = read_index(Path(root or run.data))
    except (ValueError, OSError):
        return {}
    counted = {}
    for split in ("train", "val", "test"):
        records = [record for record in index if record.split == split]
        counted[split] = (len({record.case for record in records}), len(records))
    return counted
