"""What scripts/export.py made of a student: size, agreement with PyTorch, what int8 loses, and speed of each file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.exporting.summary import FORM_OF
from utils.runs.artifact import DESCRIPTION, INT8, ONNX, WEIGHTS, read_description
from utils.runs.groups import Group

TIMES = "\u00d7"  # a multiplication sign
TIMED = {ONNX: "ONNX", INT8: "ONNX int8"}


@dataclass(frozen=True)
class ExportedFile:
    """One file of an export; what was not measured is None.

    Args:
        smaller: How many times smaller it is than the fp32 weights.
        apart: The largest difference of its logits from PyTorch's, as a share of the largest logit.
        differing: The share of labels that differ from PyTorch's.
        lost: What its score loses against PyTorch's.
        speed: How many times as fast as PyTorch fp32 it is.
    """

    name: str
    file: str
    form: str
    size: int
    smaller: float | None = None
    apart: float | None = None
    differing: float | None = None
    score: float | None = None
    lost: float | None = None
    milliseconds: float | None = None
    speed: float | None = None


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

    def files(self) -> list[ExportedFile]:
        return [self._described(file, facts["bytes"]) for file, facts in self.description["files"].items()]

    def measured(self) -> str:
        """How its figures were found."""
        measured = self.description["measured"]
        if not measured:
            return f"{self.description['name']}: neither scored nor timed when it was exported."
        shape = TIMES.join(str(extent) for extent in measured["timed_shape"])
        return (
            f"Measured by scripts/export.py: {measured['score']} of {measured['cases']} val cases; ms at {shape}, "
            f"{measured['threads']} CPU threads."
        )

    def _described(self, file: str, size: int) -> ExportedFile:
        form, reference = FORM_OF.get(file, "ExportedProgram"), FORM_OF[WEIGHTS]
        facts: dict[str, Any] = {}
        if weights := self.description["files"].get(WEIGHTS):
            facts["smaller"] = weights["bytes"] / size
        key = {ONNX: "onnx", INT8: "int8"}.get(file, "exported_program")
        parity = self.description.get(key, {}).get("parity", []) if file != WEIGHTS else []
        if parity:
            facts["apart"] = max(row["relative"] for row in parity)
            facts["differing"] = max(row["labels_differing"] for row in parity)
        elif file == INT8:
            facts["differing"] = self.description["int8"]["labels_differing"]
        measured = self.description["measured"]
        if measured and form in measured["scores"]:
            score, times = measured["score"], measured["milliseconds"]
            facts["score"] = measured["scores"][form][score]
            facts["milliseconds"], facts["speed"] = times[form], times[reference] / times[form]
            if form != reference:
                facts["lost"] = measured["scores"][reference][score] - facts["score"]
        return ExportedFile(self.name, file, form, size, **facts)


def read_exports(folders: Sequence[Path], groups: Sequence[Group]) -> tuple[list[Export], list[str]]:
    """The exports of these runs, and a line for each folder that is not an export of one of them."""
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
            notes.append(f"{folder}: its {DESCRIPTION} does not list its files; left out, export again")
        else:
            exports.append(Export(folder, name, description))
    return exports, notes
