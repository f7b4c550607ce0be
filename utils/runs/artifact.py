"""What is handed over: weights in safetensors, and JSON that says what they are. Nothing in either is executed."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import nn

from utils.evaluation.kind import kind_of
from utils.runs.results import read_result
from utils.training import checkpoints

WEIGHTS, ONNX, INT8, PROGRAM = "student.safetensors", "student.onnx", "student_int8.onnx", "student.pt2"
DESCRIPTION, CARD = "student.json", "README.md"
FILES = (WEIGHTS, ONNX, INT8, PROGRAM, DESCRIPTION, CARD)
FORMER_FILES = ("metadata.json",)  # earlier versions wrote it
UNSPECIFIED = "unspecified"
SCHEMA = 1  # of the description
PACKAGES = ("torch", "monai", "numpy", "nibabel", "safetensors", "onnx", "onnxruntime")
FROM_ELSEWHERE = ("pretrained", "checkpoint")  # arguments of a network that would fetch or read other weights
LARGEST_JSON = 64 << 20  # bytes


def describe(checkpoint: Mapping[str, Any], path: Path, name: str, license_text: str) -> dict[str, Any]:
    """What `checkpoint`, read from `path`, is: all that using its weights takes, and where they are from.

    It holds the number of patients, not their names, and of absolute paths the last part.
    """
    preprocessing = checkpoint["preprocessing"]
    names = list(preprocessing["class_names"])
    weights = checkpoints.rebuild(checkpoint)
    patients = {split: len(members) for split, members in checkpoint["split"].items() if split != "sha256"}
    return {
        "schema": SCHEMA,
        "name": name,
        "license": license_text,
        "network": dict(checkpoint["network"]),
        "parameters": sum(parameter.numel() for parameter in weights.parameters()),
        "in_channels": preprocessing.get("in_channels", 1),
        "outputs": kind_of(preprocessing).outputs(names),
        "preprocessing": preprocessing,
        "recipe": _portable(checkpoint["recipe"]),
        "split": {"sha256": checkpoint["split"]["sha256"], "patients": patients},
        "scores": {"val": checkpoint["scores"]["scores"], "test": _test_scores(path)},
        "source": {"file": path.name, "sha256": checkpoints.sha256(path), "epoch": checkpoint.get("epoch")},
        "versions": {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}},
    }


def _test_scores(path: Path) -> dict[str, Any] | None:
    """The scores that the run's test.json holds of this very checkpoint."""
    file = path.with_name("test.json")
    if not file.is_file():
        return None
    known = read_result(file)
    if known["checkpoint_sha256"] != checkpoints.sha256(path):
        return None
    return {key: known[key] for key in ("cases", "empty_mask_rule", "scores")}


def _portable(value: Any) -> Any:
    """Plain values for JSON; where a string is an absolute path, its last part: a home folder is nobody's business."""
    if isinstance(value, Mapping):
        return {key: _portable(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_portable(each) for each in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def write_weights(network: nn.Module, path: Path) -> None:
    """The network's own parameters and buffers; not those of a teacher."""
    from safetensors.torch import save

    weights = {name: value.detach().cpu().contiguous().clone() for name, value in network.state_dict().items()}
    path.write_bytes(save(weights, metadata={"format": "pt"}))


def read_description(path: Path) -> dict[str, Any]:
    """The description in a JSON file. Raises ValueError naming what is wrong with it."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file; it belongs to the weights beside it: copy the whole export folder")
    if path.stat().st_size > LARGEST_JSON:
        raise ValueError(f"{path}: is too large for the description of a network: more than {LARGEST_JSON >> 20} MB")
    return parse_description(path.read_bytes(), path)


def parse_description(text: bytes | str, path: Path) -> dict[str, Any]:
    """The description from JSON found in `path`. Raises ValueError when it is none or was made by a newer version."""
    try:
        description = json.loads(text)
        written = description["schema"]
        sections = [description[key] for key in ("network", "preprocessing", "recipe", "split", "source")]
        if not all(isinstance(section, dict) for section in sections):
            raise TypeError
        sections[-1]["sha256"], sections[-2]["sha256"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(
            f"{path}: holds no description of a network ({type(error).__name__}): make it with scripts/export.py"
        ) from None
    if written != SCHEMA:
        raise ValueError(f"{path}: its description has schema {written!r}, this version reads {SCHEMA}: export it anew")
    return description


def read_weights(path: Path, check: Callable[[dict[str, Any]], None]) -> tuple[dict[str, Any], nn.Module]:
    """The description beside a .safetensors file, and the network rebuilt with its weights, loaded strictly.

    check: Called with the description before anything is built from it. Raises ValueError when the file is not the one
    described, damaged, or does not fit the network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise ValueError(f"{path}: no such file: scripts/export.py writes {WEIGHTS}")
    beside = path.with_suffix(".json")
    description = read_description(beside)
    check(description)
    known = description.get("files", {}).get(WEIGHTS, {}).get("sha256")
    if known != checkpoints.sha256(path):
        raise ValueError(f"{path}: is not the file that {beside} describes (its sha256 differs): copy both again")
    try:
        weights = load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{path}: cannot be read as safetensors ({type(error).__name__}): is the file whole?"
        ) from None
    section = description["network"]
    if foreign := sorted(set(section).intersection(FROM_ELSEWHERE)):
        raise ValueError(f"{beside}: its network asks for other weights ({', '.join(foreign)}): export it anew")
    try:
        network = checkpoints.rebuild({"network": section, "weights": weights})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return description, network
