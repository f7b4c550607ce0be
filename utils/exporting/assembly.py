"""An export from beginning to end: every file is made and checked beside the folder, which then appears whole."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from tqdm import tqdm

from datasets.files import alone_in, write_text
from datasets.slices.store import write_json
from datasets.slices.transforms import STRIDE, next_multiple
from utils.evaluation.kind import IMAGES, SLICES, Kind, kind_of
from utils.exporting import parity, samples
from utils.exporting.measurement import measure
from utils.exporting.model_card import model_card
from utils.exporting.onnx_file import write_onnx, write_onnx_description
from utils.exporting.program import Captured, FreshProcess, NotExportableError, capture, save_program
from utils.exporting.quantization import quantize
from utils.exporting.rewriting import rewrite
from utils.runs import artifact
from utils.runs.artifact import CARD, DESCRIPTION, INT8, ONNX, PROGRAM, WEIGHTS
from utils.runs.data import open_split
from utils.runs.models import load_model
from utils.runs.onnx_network import OnnxNetwork
from utils.training import checkpoints

OURS = {*artifact.FILES, *artifact.FORMER_FILES}
TORCH_FORM, ONNX_FORM, INT8_FORM = "PyTorch fp32", "ONNX fp32", "ONNX int8"


@dataclass(frozen=True)
class Request:
    """What is wanted; see scripts/export.py. formats_required: a format that cannot be made is an error."""

    checkpoint: Path
    output: Path
    formats: tuple[str, ...]
    formats_required: bool
    calibration: int
    val_cases: int | None
    data: str | None
    name: str | None
    license: str
    overwrite: bool


def export(request: Request) -> dict[str, Any]:
    """Make the folder; returns its description, as in student.json.

    Raises ValueError for a checkpoint that is none, a folder that holds other things, and a file that does not answer
    as PyTorch does. Nothing is left behind then.
    """
    path = request.checkpoint / "best.ckpt" if request.checkpoint.is_dir() else request.checkpoint
    output = request.output.resolve()
    recover(output)
    refuse_output(request.output, request.overwrite)
    model = load_model(path)
    if model.format != "checkpoint":
        raise ValueError(f"{path}: is exported already: give the run or its checkpoint")
    checkpoint = checkpoints.load(path)
    name = request.name or (path.resolve().parent.name if path.name in ("best.ckpt", "last.ckpt") else path.stem)
    stage = output.with_name(f".{output.name}.partial")
    with alone_in(stage):
        try:
            empty(stage)  # of a killed run
            description = artifact.describe(checkpoint, path, name, request.license)
            assemble(request, checkpoint, model.network, description, stage)
            publish(stage, output)
        except OSError as error:
            error.filename = error.filename or str(output)  # a full disk names no file
            raise
        finally:
            empty(stage)
            with suppress(OSError):
                stage.rmdir()
    return description


def refuse_output(output: Path, overwrite: bool) -> None:
    """Raises ValueError where the folder is something that must not be replaced."""
    if not output.exists():
        return
    if not output.is_dir():
        raise ValueError(f"{output}: is a file: give a folder as --output")
    held = {path.name for path in output.iterdir()}
    if foreign := sorted(held.difference(OURS)):
        raise ValueError(
            f"{output}: holds {', '.join(foreign[:3])}, which export.py did not write: choose another --output"
        )
    if not held:
        return
    try:
        artifact.read_description(output / DESCRIPTION)
    except ValueError as error:
        raise ValueError(
            f"{output}: holds files, but no record of an export ({error}): choose another --output"
        ) from None
    if not overwrite:
        raise ValueError(f"{output}: holds an export: choose another --output, or pass --overwrite")


def publish(stage: Path, output: Path) -> None:
    """Put the finished folder in its place, instead of an earlier one, which is kept until then."""
    former = former_of(output)
    if former.exists():
        empty(former)
        former.rmdir()
    if output.exists():
        output.rename(former)
    stage.rename(output)
    if former.exists():
        shutil.rmtree(former)


def former_of(output: Path) -> Path:
    """Where an earlier export waits while the new one takes its place."""
    return output.with_name(f".{output.name}.former")


def recover(output: Path) -> None:
    """Put back an earlier export that a killed run had set aside."""
    if former_of(output).is_dir() and not output.exists():
        former_of(output).rename(output)


def empty(folder: Path) -> None:
    """Delete what an export left in a folder of its own. Raises ValueError where there is anything else in it."""
    held = list(folder.iterdir()) if folder.exists() else []
    for path in held:
        if path.name.removeprefix(".").removesuffix(".partial") not in OURS:
            raise ValueError(f"{path}: is in the way, and no part of an export: move it away")
    for path in held:
        path.unlink()


def assemble(
    request: Request, checkpoint: Mapping[str, Any], network: nn.Module, description: dict[str, Any], stage: Path
) -> None:
    """Fill `stage`, and `description` with what was found on the way."""
    formats = set(request.formats)
    forms = {TORCH_FORM: network}
    with tqdm(total=len(formats) + 1, desc="exporting", unit="step", disable=None, leave=False) as steps:
        images = None
        if "int8" in formats:  # first: without them all other work may be for nothing
            images = _attempt(request, "no int8", lambda: _calibration_images(request, checkpoint))
        if "safetensors" in formats:
            artifact.write_weights(network, stage / WEIGHTS)
            steps.update()
        rewritten, captured = rewrite(network), None
        if formats & {"onnx", "int8"}:
            captured = _attempt(request, "no ONNX", lambda: _make_onnx(network, rewritten, description, stage / ONNX))
            if captured is None:
                formats -= {"onnx", "int8"}
            else:
                forms[ONNX_FORM] = OnnxNetwork(stage / ONNX, _pad_value(description))
            steps.update()
        if "int8" in formats and images is not None:
            description["int8"] = asdict(quantize(stage / ONNX, stage / INT8, images))
            forms[INT8_FORM] = OnnxNetwork(stage / INT8, _pad_value(description))
            steps.update()
        if "exported_program" in formats:
            make = partial(_make_program, network, rewritten, captured, description, stage / PROGRAM)
            _attempt(request, "no ExportedProgram", make)
            steps.update()
        _measure(request, checkpoint, forms, description)
        steps.update()
    if "onnx" not in request.formats:
        (stage / ONNX).unlink(missing_ok=True)
    for file, precision in ((stage / ONNX, "fp32"), (stage / INT8, "int8")):
        if file.exists():
            write_onnx_description(file, description, precision)
    made = [stage / file for file in (WEIGHTS, ONNX, INT8, PROGRAM) if (stage / file).exists()]
    description["files"] = {
        file.name: {"bytes": file.stat().st_size, "sha256": checkpoints.sha256(file)} for file in made
    }
    write_json(stage / DESCRIPTION, description)
    write_text(stage / CARD, model_card(description))


def _side(description: Mapping[str, Any]) -> int:
    """Side of the images a network is traced and probed with."""
    kind = _kind(description)
    side = kind.side(description["preprocessing"])
    return side if kind is IMAGES else max(2 * STRIDE, next_multiple(side))


def _pad_value(description: Mapping[str, Any]) -> float:
    return _kind(description).pad_value(description["preprocessing"])


def _kind(description: Mapping[str, Any]) -> Kind:
    return kind_of(description["preprocessing"])


def _attempt(request: Request, what: str, make: Callable[[], Any]) -> Any:
    """What `make` returns; None, and a note, where that cannot be and nobody asked for it by name."""
    try:
        return make()
    except NotExportableError as error:
        if request.formats_required:
            raise ValueError(f"{what}: {error}; leave it out of --formats") from None
        print_note(f"{what}: {error}")
        return None


def _captured(rewritten: nn.Module, description: Mapping[str, Any]) -> tuple[Captured, str]:
    """The traced network, for any size where that can be; else for one, and why."""
    channels, side, reason = description["in_channels"], _side(description), "its images have that size"
    if side % STRIDE == 0:
        try:
            return capture(rewritten, channels, side), ""
        except NotExportableError as error:
            reason = str(error)
    return capture(rewritten, channels, side, fixed=True), reason


def _make_onnx(network: nn.Module, rewritten: nn.Module, description: dict[str, Any], path: Path) -> Captured:
    """Write the ONNX file and compare it with PyTorch at two sizes; for one size where it does not run at others."""
    captured, reason = _captured(rewritten, description)
    try:
        opset, rows = _write_and_compare(network, captured, description, path)
    except ValueError as error:
        if captured.size is not None:
            raise
        captured, reason = capture(rewritten, description["in_channels"], _side(description), fixed=True), str(error)
        opset, rows = _write_and_compare(network, captured, description, path)
    parity.refuse_apart(rows, path.name)
    if captured.size is not None and _kind(description) is SLICES:
        size = "x".join(map(str, captured.size))
        print_note(
            f"{description['network']['name']} cannot be exported for any size, its ONNX takes {size} only: {reason}"
        )
    description["onnx"] = {"opset": opset, "size": _plain(captured.size), "parity": rows}
    return captured


def _plain(size: tuple[int, int] | None) -> list[int] | None:
    return None if size is None else list(size)


def _write_and_compare(
    network: nn.Module, captured: Captured, description: Mapping[str, Any], path: Path
) -> tuple[int, list[dict[str, Any]]]:
    opset = write_onnx(captured, path)
    images = parity.probes(description["in_channels"], _side(description), captured.size is not None)
    return opset, parity.compare(network, OnnxNetwork(path), images)


def _calibration_images(request: Request, checkpoint: Mapping[str, Any]) -> list[Tensor]:
    """Images of the train split. Raises NotExportableError where it is not there."""
    try:
        train = open_split(checkpoint, "train", request.data)
        return samples.draw_images(train, checkpoint["preprocessing"], request.calibration)
    except (ValueError, OSError) as error:
        why = " ".join(str(error).split())
        raise NotExportableError(f"the train split is not there to calibrate with (give --data): {why}") from None


def _make_program(
    network: nn.Module, rewritten: nn.Module, captured: Captured | None, description: dict[str, Any], path: Path
) -> None:
    """Write the ExportedProgram and compare what it answers in a new process."""
    captured = captured or _captured(rewritten, description)[0]
    save_program(captured, path)
    images = parity.probes(description["in_channels"], _side(description), captured.size is not None)
    rows = parity.compare(network, FreshProcess(path, images), images)
    parity.refuse_apart(rows, path.name)
    description["exported_program"] = {"size": _plain(captured.size), "parity": rows}


def _measure(
    request: Request, checkpoint: Mapping[str, Any], forms: Mapping[str, nn.Module], description: dict[str, Any]
) -> None:
    """Score and time the forms, if the val split is there."""
    description["measured"] = None
    try:
        val = open_split(checkpoint, "val", request.data, keep_decoded=True)
        measured = measure(checkpoint["recipe"], val, forms, request.val_cases)
    except (ValueError, OSError) as error:
        print_note(f"scores not measured, the val split is not there: {' '.join(str(error).split())}")
        return
    description["measured"] = measured.as_dict()


def print_note(note: str) -> None:
    tqdm.write(f"note: {note}", file=sys.stderr)
