"""Which engine runs a network: the one that is asked for, or of those installed the fastest on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from utils.runs.artifact import ONNX, WEIGHTS, read_description
from utils.runs.engine_memory import key_of, recall, remember
from utils.runs.models import Model, load_model, network_file
from utils.runs.onnx_engines import ONNX_ENGINES, engine_version, is_installed
from utils.training.checkpoints import sha256
from utils.training.device import MIXED, Device

ROUNDS = 3  # of which the fastest counts


def load_models(paths: Sequence[Path], engine: str = "auto") -> list[Model]:
    """Load networks that can be averaged. Raises ValueError where one is none, or they name different classes."""
    models = [load_for_engine(path, engine) for path in paths]
    first = models[0]
    for model in models[1:]:
        for key in ("kind", "modality", "class_names"):
            ours, theirs = (each.preprocessing.get(key) for each in (first, model))
            if ours != theirs:
                raise ValueError(f"{model.path}: {key} {theirs}, but {first.path} has {ours}: average one task only")
    return models


def load_for_engine(path: Path, engine: str) -> Model:
    """The network in `path` as `engine` runs it: auto, torch, onnxruntime or openvino.

    A run or checkpoint is torch's. Of an exported folder the engines have its weights or its fp32 ONNX file, whose
    answers are the same; `auto` lets all that are installed take part. It never takes int8, which loses a little, for
    fp32: that file runs where it is named.

    Raises ValueError where the engine cannot run what is there.
    """
    file = network_file(path)
    files = _files(path, file)
    if engine != "auto":
        if engine not in files:
            raise ValueError(f"{path}: {_why_not(engine, path, file)}")
        model = load_model(files[engine], engine)
        model.path, model.sha256, model.why = file, sha256(file), "asked for"
        return model
    model = load_model(file)
    others = [name for name in files if name != model.engine and is_installed(name)]
    if others:
        digests = {each.name: sha256(each) for each in sorted(set(files.values()))}
        openers = {name: partial(_open, files[name], name) for name in others}
        model.network = FastestNetwork(model.network, model.engine, openers, digests, model.kind.sample)
    else:
        model.why = f"auto: {model.engine} alone runs {'checkpoints' if model.format == 'checkpoint' else 'it here'}"
    return model


def _files(path: Path, file: Path) -> dict[str, Path]:
    """By engine what it runs. Raises ValueError where the files of an exported folder do not belong together."""
    if file.suffix == ".onnx":
        return dict.fromkeys(ONNX_ENGINES, file)
    files = {"torch": file}
    onnx = path / ONNX
    if file.name == WEIGHTS and path.is_dir() and onnx.is_file():
        beside = file.with_suffix(".json")
        if read_description(beside).get("files", {}).get(ONNX, {}).get("sha256") != sha256(onnx):
            raise ValueError(f"{onnx}: is not the file that {beside} describes (its sha256 differs): copy both again")
        files |= dict.fromkeys(ONNX_ENGINES, onnx)
    return files


def _why_not(engine: str, path: Path, file: Path) -> str:
    if engine == "torch":
        return f"is ONNX, which torch does not run: give the exported folder with its {WEIGHTS}"
    if file.name == WEIGHTS:
        return f"{engine} runs {ONNX}: give the exported folder that has it"
    return f"{engine} runs exported networks: first python scripts/export.py --checkpoint {path} --output FOLDER"


def _open(file: Path, engine: str) -> nn.Module:
    return load_model(file, engine).network


class FastestNetwork(nn.Module):
    """A network in one engine, and from `settle` on in the fastest of several.

    Args:
        network: As `engine` runs it.
        others: How it is opened in other engines.
        digests: sha256 of its files.
        sample: What one image is called: a slice or an image.
    """

    def __init__(
        self,
        network: nn.Module,
        engine: str,
        others: Mapping[str, Callable[[], nn.Module]],
        digests: Mapping[str, str],
        sample: str,
    ) -> None:
        super().__init__()
        self.network, self.engine, self.others, self.digests = network, engine, dict(others), digests
        self.sample, self.why = sample, f"auto: {engine}, nothing was predicted"

    def forward(self, image: Tensor) -> Tensor:
        return self.network(image)

    def settle(self, image: Tensor, answer: Callable[[nn.Module], Any], device: Device) -> None:
        """Choose by the times that are remembered for images of this size, or else measured.

        The choice holds for the images that follow, whatever their size. On a GPU nothing is tried, nor in a mixed
        precision, in which torch alone computes.

        image: One (1, C, H, W). answer: Makes a network answer it.
        """
        if not self.others:
            return
        if device.device.type != "cpu":
            self.others.clear()
            self.why = f"auto: {self.engine} on {device.device.type}"
            return
        if device.precision in MIXED and self.engine == "torch":
            self.others.clear()
            self.why = f"auto: torch computes in {device.precision}"
            return
        versions = {name: engine_version(name) for name in (self.engine, *self.others)}
        key = key_of(self.digests, versions, tuple(image.shape[1:]), device.precision)
        milliseconds, opened, notes = recall(key), {self.engine: self.network}, []
        if not milliseconds.keys() & versions.keys():
            answer(self.network)
            for name, make in self.others.items():
                try:
                    network = make()
                    if network.size is not None and self.engine == "torch":  # which takes every size that follows
                        raise ValueError(f"takes images of {network.size[0]}x{network.size[1]} only")
                    answer(network)  # which also warms it up
                    opened[name] = network
                except ValueError as error:
                    notes.append(f"; {name}: {error}")
            milliseconds = _time(opened, answer)
            remember(key, milliseconds)
        ranked = sorted(milliseconds.keys() & versions.keys(), key=milliseconds.get)
        self.network = opened.get(ranked[0]) or self.others[ranked[0]]()
        self.engine = ranked[0]
        self.others.clear()
        times = ", ".join(f"{name} {milliseconds[name]:.3g} ms" for name in ranked)
        self.why = f"auto: {times} {self.sample}{''.join(notes)}"


def _time(networks: Mapping[str, nn.Module], answer: Callable[[nn.Module], Any]) -> dict[str, float]:
    """Milliseconds of each network: in turn, so that all meet the same machine."""
    seconds: dict[str, list[float]] = {name: [] for name in networks}
    for _ in range(ROUNDS):
        for name, network in networks.items():
            started = time.perf_counter()
            answer(network)
            seconds[name].append(time.perf_counter() - started)
    return {name: 1e3 * min(values) for name, values in seconds.items()}
