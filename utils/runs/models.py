"""Networks ready to predict, from whatever they are kept in: a run, a checkpoint, or what scripts/export.py wrote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from utils.evaluation.kind import Kind, kind_of
from utils.runs.artifact import ONNX, WEIGHTS, read_description, read_weights
from utils.runs.onnx_network import OnnxNetwork
from utils.training import checkpoints

ONNX_TRAINING = {"precision": "32-true", "channels_last": False}  # the file has its own precision and layout


@dataclass
class Model:
    """A network ready to predict.

    training: settings of its run that its input depends on. format: what it was read from: checkpoint, safetensors,
    onnx fp32 or onnx int8. why: of its engine, where the network has not chosen it itself.
    """

    path: Path
    sha256: str
    network: nn.Module
    preprocessing: dict[str, Any]
    training: dict[str, Any]
    format: str = "checkpoint"
    why: str = ""

    @property
    def kind(self) -> Kind:
        return kind_of(self.preprocessing)

    @property
    def engine(self) -> str:
        """What runs the network."""
        return getattr(self.network, "engine", "torch")

    @property
    def engine_why(self) -> str:
        """Why that."""
        return getattr(self.network, "why", self.why)


def load_model(path: Path, onnx_engine: str = "onnxruntime") -> Model:
    """Load a run folder, an export folder, a checkpoint, a .safetensors or an .onnx file; the name says which."""
    path = network_file(path)
    if path.suffix == ".json":
        raise ValueError(f"{path}: is the description; give the file it describes, or their folder")
    if path.suffix == ".onnx":
        return _from_onnx(path, onnx_engine)
    if path.suffix == ".safetensors":
        description, network = read_weights(path, lambda read: check_preprocessing(path, read["preprocessing"]))
        training = _training(path, description["recipe"])
        return Model(path, checkpoints.sha256(path), network, description["preprocessing"], training, "safetensors")
    return _from_checkpoint(path)


def network_file(path: Path) -> Path:
    """Of a folder the file that is loaded: best.ckpt of a run, the weights of an export or its ONNX; else the path."""
    if not path.is_dir():
        return path
    return next((path / name for name in ("best.ckpt", WEIGHTS, ONNX) if (path / name).is_file()), path / "best.ckpt")


def load_for_scoring(path: Path) -> tuple[dict[str, Any], nn.Module]:
    """A checkpoint or a description, of which both have preprocessing, split and recipe, and the network.

    Of an exported file the split is known by its hash alone, not by its patients.
    """
    model = load_model(path)
    if model.format == "checkpoint":
        return checkpoints.load(model.path), model.network
    if isinstance(model.network, OnnxNetwork):
        return model.network.description(), model.network
    return read_description(model.path.with_suffix(".json")), model.network


def _from_onnx(path: Path, engine: str) -> Model:
    network = OnnxNetwork(path, engine=engine)
    description = network.description()
    preprocessing = description["preprocessing"]
    check_preprocessing(path, preprocessing)
    kind = kind_of(preprocessing)
    network.pad_value = kind.pad_value(preprocessing)
    names, channels = preprocessing["class_names"], preprocessing.get("in_channels", 1)
    if (network.in_channels, network.outputs) != (channels, len(kind.outputs(names))):
        raise ValueError(
            f"{path}: takes {network.in_channels} channels and answers {network.outputs}, its description says "
            f"{channels} and {len(names)} classes: export it anew"
        )
    return Model(
        path, checkpoints.sha256(path), network, preprocessing, dict(ONNX_TRAINING), f"onnx {network.precision}"
    )


def _from_checkpoint(path: Path) -> Model:
    checkpoint = checkpoints.load(path)
    for key in ("preprocessing", "recipe", "weights"):
        if not isinstance(checkpoint[key], dict):
            raise ValueError(f"{path}: its {key} is a {type(checkpoint[key]).__name__}: is the file whole?")
    check_preprocessing(path, checkpoint["preprocessing"])
    try:
        network = checkpoints.rebuild(checkpoint)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return Model(
        path, checkpoints.sha256(path), network, checkpoint["preprocessing"], _training(path, checkpoint["recipe"])
    )


def _training(path: Path, recipe: Mapping[str, Any]) -> dict[str, Any]:
    training = recipe.get("training", {})
    if not isinstance(training, dict):
        raise ValueError(f"{path}: its recipe has no training settings: is the file whole?")
    return training


def check_preprocessing(path: Path, preprocessing: Mapping[str, Any]) -> None:
    """Raises ValueError where it does not say how a volume or an image becomes the network's input."""
    if fault := kind_of(preprocessing).fault(preprocessing):
        raise ValueError(f"{path}: its preprocessing {fault}")
