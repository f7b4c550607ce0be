"""Networks ready to predict, from whatever they are kept in: a run, a checkpoint, or what scripts/export.py wrote."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from utils.training import checkpoints
from utils.runs.artifact import WEIGHTS, read_description, read_weights
from utils.runs.onnx_network import OnnxNetwork

SLICE_KEYS = {"modality", "window", "pad_value", "crop", "class_names"}
IMAGE_KEYS = {"class_names", "image_size", "in_channels", "mean", "std"}
LARGEST_SIDE = 1 << 14  # pixels
ONNX_TRAINING = {"precision": "32-true", "channels_last": False}  # the file has its own precision and layout


@dataclass
class Model:
    """A network ready to predict.

    training: settings of its run that its input depends on. format: what it was read from: checkpoint, safetensors,
    onnx fp32 or onnx int8.
    """

    path: Path
    sha256: str
    network: nn.Module
    preprocessing: dict[str, Any]
    training: dict[str, Any]
    format: str = "checkpoint"

    @property
    def takes_images(self) -> bool:
        """Whether it classifies images; else it labels slices."""
        return self.preprocessing.get("kind") == "image"


def load_models(paths: Sequence[Path]) -> list[Model]:
    """Load networks that can be averaged. Raises ValueError where one is none, or they name different classes."""
    models = [load_model(path) for path in paths]
    first = models[0]
    for model in models[1:]:
        for key in ("kind", "modality", "class_names"):
            ours, theirs = (each.preprocessing.get(key) for each in (first, model))
            if ours != theirs:
                raise ValueError(f"{model.path}: {key} {theirs}, but {first.path} has {ours}: average one task only")
    return models


def load_model(path: Path) -> Model:
    """Load a run folder, an export folder, a checkpoint, a .safetensors or an .onnx file, told apart by their names."""
    path = network_file(path)
    if path.suffix == ".json":
        raise ValueError(f"{path}: is the description; give the file it describes, or their folder")
    if path.suffix == ".onnx":
        return _from_onnx(path)
    if path.suffix == ".safetensors":
        description, network = read_weights(path, lambda read: check_preprocessing(path, read["preprocessing"]))
        training = _training(path, description["recipe"])
        return Model(path, checkpoints.sha256(path), network, description["preprocessing"], training, "safetensors")
    return _from_checkpoint(path)


def network_file(path: Path) -> Path:
    """Of a folder the file that is loaded: best.ckpt of a run, the weights of an export; else the path itself."""
    if not path.is_dir():
        return path
    return path / (WEIGHTS if (path / WEIGHTS).is_file() and not (path / "best.ckpt").is_file() else "best.ckpt")


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


def _from_onnx(path: Path) -> Model:
    network = OnnxNetwork(path)
    description = network.description()
    preprocessing = description["preprocessing"]
    check_preprocessing(path, preprocessing)
    is_image = preprocessing.get("kind") == "image"
    network.pad_value = 0.0 if is_image else preprocessing["pad_value"]
    names, channels = preprocessing["class_names"], preprocessing.get("in_channels", 1)
    if (network.in_channels, network.outputs) != (channels, len(names) + (not is_image)):
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
    is_image = preprocessing.get("kind") == "image"
    if missing := (IMAGE_KEYS if is_image else SLICE_KEYS) - set(preprocessing):
        raise ValueError(f"{path}: its preprocessing has no {', '.join(sorted(missing))}: train it again")
    names = preprocessing["class_names"]
    fine = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
    sound = {"class_names": fine and 0 < len(names) < 256 and len(set(names)) == len(names)}
    if is_image:
        channels, side = preprocessing["in_channels"], preprocessing["image_size"]
        sound |= {"in_channels": channels in (1, 3), "image_size": type(side) is int and 0 < side <= LARGEST_SIDE}
        sound |= {key: _are_numbers(preprocessing[key], channels) for key in ("mean", "std")}
    else:
        window, crop = preprocessing["window"], preprocessing["crop"]
        sound |= {
            "modality": preprocessing["modality"] in ("CT", "MR"),
            "window": window is None or (_are_numbers(window, 2) and window[0] < window[1]),
            "pad_value": _are_numbers([preprocessing["pad_value"]], 1),
            "crop": crop is None or (type(crop) is int and 0 < crop <= LARGEST_SIDE),
        }
    for key, fine in sound.items():
        if not fine:
            raise ValueError(f"{path}: its preprocessing has {key} {str(preprocessing[key])[:60]}: is the file whole?")


def _are_numbers(values: Any, count: int) -> bool:
    """Whether it is a list of so many finite numbers."""
    if not isinstance(values, list | tuple) or len(values) != count:
        return False
    return all(isinstance(value, int | float) and math.isfinite(value) for value in values)
