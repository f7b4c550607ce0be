"""A network as torch.export sees it: for ONNX, and as a file that runs without its Python code."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from datasets.slices.transforms import STRIDE

RUN = """
import sys, torch
program = torch.export.load(sys.argv[1]).module()
torch.set_num_threads(int(sys.argv[4]))
with torch.inference_mode():
    torch.save([program(image) for image in torch.load(sys.argv[2], weights_only=True)], sys.argv[3])
"""


class NotExportableError(ValueError):
    """A network does something that a format has no words for."""


@dataclass(frozen=True)
class Captured:
    """A traced network. `size`: the only (height, width) it takes, None where any multiples of 32 are fine."""

    program: ExportedProgram
    size: tuple[int, int] | None


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings of the libraries within: they are about their own insides."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def capture(network: nn.Module, in_channels: int, side: int, fixed: bool = False) -> Captured:
    """Trace `network` for any batch and, unless `fixed`, any height and width that are multiples of 32, from 64 on.

    side: of the square it is traced with. Raises NotExportableError where torch.export cannot.
    """
    dimensions = {0: Dim("batch", min=1)}
    if not fixed:
        dimensions |= {2: STRIDE * Dim("rows", min=2), 3: STRIDE * Dim("columns", min=2)}
    # two images of different sides: 1 and equal sizes would be taken for constants
    example = torch.zeros(2, in_channels, side, side if fixed else side + STRIDE)
    try:
        with quiet(), torch.no_grad():
            program = torch.export.export(network, (example,), dynamic_shapes=(dimensions,))
    except Exception as error:  # torch.export raises many kinds
        raise NotExportableError(f"torch.export: {reason_of(error)}") from None
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)  # has the paths of this machine
    return Captured(program, (side, side) if fixed else None)


def reason_of(error: BaseException) -> str:
    """The first error of those that led to this one, on one short line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())[:200]


def save_program(captured: Captured, path: Path) -> None:
    content = io.BytesIO()  # torch reports a full disk as an error of its own
    with quiet():
        torch.export.save(captured.program, content)
    path.write_bytes(content.getbuffer())


class FreshProcess(nn.Module):
    """Answers with a saved program in a new Python process that knows torch alone.

    Give it all images at once: a process takes seconds to start.
    """

    def __init__(self, path: Path, images: Sequence[Tensor]) -> None:
        super().__init__()
        with tempfile.TemporaryDirectory() as folder:
            inputs, outputs = Path(folder) / "images.pt", Path(folder) / "logits.pt"
            torch.save(list(images), inputs)
            command = [sys.executable, "-c", RUN, *map(str, (path.resolve(), inputs, outputs, torch.get_num_threads()))]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
            if done.returncode:
                raise ValueError(f"{path.name}: does not run in a new process: {done.stderr.strip()[-300:]}")
            self.answers = torch.load(outputs, weights_only=True)
        self.images = list(images)

    def forward(self, image: Tensor) -> Tensor:
        """The logits of one of the images, the very tensor."""
        return next(logits for each, logits in zip(self.images, self.answers, strict=True) if each is image)
