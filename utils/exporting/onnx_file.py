"""A network as one ONNX file that describes itself."""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from utils.exporting.program import Captured, NotExportableError, quiet, reason_of
from utils.runs.onnx_engines import DESCRIPTION_KEY, PRECISION_KEY

if TYPE_CHECKING:
    import onnx

INPUT, OUTPUT = "image", "logits"
AXES = {0: "batch", 2: "h", 3: "w"}  # the image is (batch, C, 32*h, 32*w)
SYMBOL = re.compile(r"\bs\d+\b")


def write_onnx(captured: Captured, path: Path) -> int:
    """Write a traced network with its weights inside; returns the opset.

    Raises NotExportableError where ONNX cannot say it.
    """
    import onnx

    try:
        with quiet(), contextlib.redirect_stdout(io.StringIO()):
            program = torch.onnx.export(
                captured.program,
                dynamo=True,
                external_data=False,
                verbose=False,
                input_names=[INPUT],
                output_names=[OUTPUT],
            )
        model = program.model_proto
    except Exception as error:  # the exporter raises many kinds
        raise NotExportableError(f"torch.onnx: {reason_of(error)}") from None
    name_axes(model)
    bare(model)
    onnx.save(model, path)
    return max(each.version for each in model.opset_import if each.domain in ("", "ai.onnx"))


def name_axes(model: onnx.ModelProto) -> None:
    """Give the sizes that are not fixed names that people know; of features too, with them ONNX Runtime saves steps."""
    image = model.graph.input[0].type.tensor_type.shape.dim
    names = {SYMBOL.search(image[axis].dim_param)[0]: name for axis, name in AXES.items() if image[axis].dim_param}
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param:
                dimension.dim_param = SYMBOL.sub(lambda found: names.get(found[0], found[0]), dimension.dim_param)


def bare(model: onnx.ModelProto) -> None:
    """Remove the exporter's notes, which run nothing and name the paths of this machine."""
    model.doc_string = model.graph.doc_string = ""
    holders = [model, model.graph, *model.graph.node, *model.graph.input, *model.graph.output, *model.graph.initializer]
    holders += model.graph.value_info
    for function in model.functions:
        holders += [function, *function.node]
    for holder in holders:
        holder.doc_string = ""
        del holder.metadata_props[:]


def write_onnx_description(path: Path, description: Mapping[str, Any], precision: str) -> None:
    """Put a description into an ONNX file, instead of the one it has. precision: fp32 or int8."""
    import onnx

    model = onnx.load(path)
    onnx.helper.set_model_props(model, {DESCRIPTION_KEY: json.dumps(description), PRECISION_KEY: precision})
    onnx.save(model, path)
