"""What an export says when it is done: one screen."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.exporting.assembly import INT8_FORM, ONNX_FORM, TORCH_FORM
from utils.exporting.measurement import LARGEST_LOSS
from utils.exporting.model_card import scored_at
from utils.runs.artifact import INT8, ONNX, PROGRAM, WEIGHTS
from utils.tables import table

FORM_OF = {WEIGHTS: TORCH_FORM, ONNX: ONNX_FORM, INT8: INT8_FORM}


def summarize(description: Mapping[str, Any], output: Path) -> str:
    """A table of the files, how they were measured, and what to beware of."""
    measured, files = description["measured"], description["files"]
    rows = []
    for name, facts in files.items():
        row = {"file": name, "form": FORM_OF.get(name, "ExportedProgram"), "MB": f"{facts['bytes'] / 1e6:.2f}"}
        if measured:
            row |= _measured(measured, FORM_OF.get(name))
        rows.append(row)
    lines = [table(rows)] if rows else []
    if measured:
        shape = "x".join(str(extent) for extent in measured["timed_shape"])
        lines.append(
            f"val{scored_at(description)}: {measured['cases']} cases, {measured['images']} images, "
            "the test split was not touched; "
            f"ms an image at {shape}, {measured['threads']} CPU threads, median of runs in turn"
        )
        if measured["empty_mask_rule"]:
            lines.append(f"  {measured['empty_mask_rule']}")
    else:
        lines.append("scores not measured")
    for key, name in (("onnx", ONNX), ("exported_program", PROGRAM)):
        if key in description and name in files:
            lines.append(_parity(name, description[key]))
    if "int8" in description:
        lines += _int8(description)
    lines.append(f"  where  {output}: model card README.md; predict.py --checkpoint {output}")
    return "\n".join(lines)


def _measured(measured: Mapping[str, Any], form: str | None) -> dict[str, str]:
    score = measured["score"]
    if form not in measured["scores"]:
        return {score: "-", "lost": "-", "ms": "-", "times as fast": "-"}
    ours, reference = (measured["scores"][each][score] for each in (form, TORCH_FORM))
    milliseconds = measured["milliseconds"]
    return {
        score: f"{ours:.4f}",
        "lost": f"{round(reference - ours, 4) + 0.0:+.4f}",  # no -0
        "ms": f"{milliseconds[form]:.2f}",
        "times as fast": f"{milliseconds[TORCH_FORM] / milliseconds[form]:.2f}",
    }


def _parity(name: str, facts: Mapping[str, Any]) -> str:
    size = facts["size"]
    sizes = "any batch, height and width multiples of 32" if size is None else f"any batch of {size[0]}x{size[1]}"
    worst = max(row["relative"] for row in facts["parity"])
    labels = max(row["labels_differing"] for row in facts["parity"])
    return f"{name}: {sizes}; logits within {worst:.1e} of the largest of PyTorch's, {labels:.2%} of labels differ"


def _int8(description: Mapping[str, Any]) -> list[str]:
    int8, measured = description["int8"], description["measured"]
    lines = [
        f"{INT8}: calibrated on {int8['images']} train images ({int8['ranges']}), "
        f"{int8['labels_differing']:.2%} of their labels differ from those of fp32"
    ]
    if measured:
        lost = measured["scores"][TORCH_FORM][measured["score"]] - measured["scores"][INT8_FORM][measured["score"]]
        if lost > LARGEST_LOSS:
            lines.append(f"note: int8 loses {lost:.4f} {measured['score']}: use {ONNX}")
        if measured["milliseconds"][INT8_FORM] > measured["milliseconds"][ONNX_FORM]:
            lines.append(f"note: int8 is not faster than {ONNX} here: this processor may have no 8-bit dot products")
    return lines
