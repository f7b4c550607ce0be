"""What scripts/export.py made of a student: size, agreement with PyTorch, what int8 loses, and speed of each file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.exporting.summary import FORM_OF
from utils.report.markup import MISSING, TIMES, Column, table, text
from utils.runs.artifact import DESCRIPTION, INT8, ONNX, WEIGHTS, read_description
from utils.runs.groups import Group

TIMED = {ONNX: "ONNX", INT8: "ONNX int8"}


@dataclass(frozen=True)
class Export:
    """An export folder; `name`: of the group whose checkpoint it was made from."""

    folder: Path
    name: str
    description: dict[str, Any]

    def timed(self) -> dict[str, Path]:
        """The files whose predictions are timed, by their name on the page."""
        return {
            f"{self.name} {form}": self.folder / file for file, form in TIMED.items() if (self.folder / file).is_file()
        }


def read_exports(folders: Sequence[Path], groups: Sequence[Group]) -> tuple[list[Export], list[str]]:
    """The exports of these runs, and a line for each folder that is none, or of a checkpoint that is not among them."""
    names = {run.sha256: group.name for group in groups for run in group.runs}
    exports, notes = [], []
    for folder in folders:
        try:
            description = read_description(folder / DESCRIPTION)
        except (ValueError, OSError) as error:
            notes.append(str(error))
            continue
        name = names.get(description["source"]["sha256"])
        if name is None:
            notes.append(f"{folder}: was exported from a checkpoint that is none of these runs; left out, export again")
        elif not {"files", "measured"} <= description.keys():
            notes.append(f"{folder}: its {DESCRIPTION} does not tell of its files; left out, export again")
        else:
            exports.append(Export(folder, name, description))
    return exports, notes


def show_exports(exports: Sequence[Export]) -> str:
    """A table of every exported file, and how its figures were found."""
    columns = [
        Column("file"),
        Column("form"),
        Column("size", True),
        Column("smaller", True, "than the fp32 weights"),
        Column("largest difference", True, "of its logits from PyTorch's, as a share of the largest logit"),
        Column("labels that differ", True, "of pixels or images, from PyTorch's"),
        Column("score on val", True),
        Column("lost", True, "against PyTorch fp32"),
        Column("ms/image", True),
        Column("speed", True, "times as fast as PyTorch fp32"),
    ]
    rows = []
    for export in exports:
        for file, facts in export.description["files"].items():
            rows.append([f"{text(export.name)} <small>{text(file)}</small>", *_cells(export.description, file, facts)])
    return table(columns, rows, " ".join(dict.fromkeys(_measured_how(export.description) for export in exports)))


def _cells(description: Mapping[str, Any], file: str, facts: Mapping[str, Any]) -> list[str]:
    form, files = FORM_OF.get(file, "ExportedProgram"), description["files"]
    smaller = f"{files[WEIGHTS]['bytes'] / facts['bytes']:.2f}{TIMES}" if WEIGHTS in files else MISSING
    key = {ONNX: "onnx", INT8: "int8"}.get(file, "exported_program")
    parity = description.get(key, {}).get("parity", []) if file != WEIGHTS else []
    largest = max((row["relative"] for row in parity), default=None)
    apart = MISSING if largest is None else f"{largest:.1e}" if largest else "0"
    differ = MISSING
    if parity:
        differ = f"{max(row['labels_differing'] for row in parity):.2%}"
    elif file == INT8:
        differ = f"{description['int8']['labels_differing']:.2%}"
    cells = [text(form), f"{facts['bytes'] / 1e6:.2f} MB", smaller, apart, differ]
    measured = description["measured"]
    if not measured or form not in measured["scores"]:
        return [*cells, *([MISSING] * 4)]
    reference, score, times = FORM_OF[WEIGHTS], measured["score"], measured["milliseconds"]
    ours, theirs = measured["scores"][form][score], measured["scores"][reference][score]
    speed = f"<b>{times[reference] / times[form]:.2f}{TIMES}</b>"
    lost = MISSING if form == reference else f"{theirs - ours:+.4f}"
    return [*cells, f"{ours:.4f}", lost, f"{times[form]:.2f}", speed]


def _measured_how(description: Mapping[str, Any]) -> str:
    measured = description["measured"]
    if not measured:
        return f"{text(description['name'])}: neither scored nor timed when it was exported."
    shape = TIMES.join(str(extent) for extent in measured["timed_shape"])
    return (
        f"Measured by scripts/export.py: {text(measured['score'])} of {measured['cases']} val cases; ms at {shape}, "
        f"{measured['threads']} CPU threads."
    )
