"""What runs an ONNX file: ONNX Runtime, or OpenVINO where it is installed. Each is imported when it is first used."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

DESCRIPTION_KEY, PRECISION_KEY = "description", "precision"  # of what scripts/export.py writes into a file
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
ERRORS_ONLY = 3
TITLES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
Shape = tuple[int | None, ...]  # None where an axis may have any length


class Session(Protocol):
    """An opened file: shapes of its inputs, () where they are not float32, and of its outputs; texts about itself."""

    inputs: list[Shape]
    outputs: list[Shape]
    metadata: dict[str, str]

    def run(self, image: np.ndarray) -> np.ndarray:
        """(B, C, H, W) float32 -> logits. Raises exceptions of the engine's own kinds."""


class OnnxRuntime:
    """ONNX Runtime, on the processor or, with package onnxruntime-gpu, on a GPU.

    Buffers are kept between images but not planned by size: planning for each size a volume may have grows without end.
    """

    def __init__(self, path: Path, device: str) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.enable_mem_pattern = False
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = ERRORS_ONLY
        known = onnxruntime.get_available_providers()
        providers = [PROVIDERS[each] for each in dict.fromkeys((device, "cpu")) if PROVIDERS[each] in known]
        self._session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        self._input = inputs[0].name if inputs else ""
        self.inputs = [_plain(each.shape) if each.type == "tensor(float)" else () for each in inputs]
        self.outputs = [_plain(each.shape) for each in outputs]
        self.metadata = self._session.get_modelmeta().custom_metadata_map

    def run(self, image: np.ndarray) -> np.ndarray:
        return self._session.run(None, {self._input: image})[0]


def _plain(shape: list[int | str]) -> Shape:
    return tuple(length if isinstance(length, int) else None for length in shape)


class OpenVino:
    """OpenVINO, on the processor, in float32: by itself it takes bfloat16 where the processor has it.

    With heights and widths left open, OpenVINO 2026.4 answers ENet's images with an empty array. A network of which it
    does so is compiled for the size of the images at hand, and again where another size follows.
    """

    def __init__(self, path: Path, device: str) -> None:
        sys.modules.setdefault("openvino_telemetry", None)  # OpenVINO would report its import to its makers
        import openvino

        self._core = openvino.Core()
        self._model = model = self._core.read_model(path)
        self.inputs = [_fixed(port) if port.element_type == openvino.Type.f32 else () for port in model.inputs]
        self.outputs = [_fixed(port) for port in model.outputs]
        places = [["framework", key] for key in (DESCRIPTION_KEY, PRECISION_KEY)]
        self.metadata = {each[1]: model.get_rt_info(each).astype(str) for each in places if model.has_rt_info(each)}
        self._compiled = self._compile()
        self._size: tuple[int, ...] | None = None

    def _compile(self) -> Any:
        settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        settings["INFERENCE_NUM_THREADS"] = torch.get_num_threads()
        return self._core.compile_model(self._model, "CPU", settings)

    def run(self, image: np.ndarray) -> np.ndarray:
        size = image.shape[2:]
        if self._size in (None, size):
            logits = self._compiled(image)[0]
            if logits.size or self._size == size:
                return logits
        self._model.reshape([-1, image.shape[1], *size])
        self._compiled, self._size = self._compile(), size
        return self._compiled(image)[0]


def _fixed(port: Any) -> Shape:
    return tuple(None if length.is_dynamic else length.get_length() for length in port.partial_shape)


ONNX_ENGINES: dict[str, type[OnnxRuntime] | type[OpenVino]] = {"onnxruntime": OnnxRuntime, "openvino": OpenVino}


def open_session(path: Path, engine: str, device: str) -> Session:
    """Raises ValueError where there is no such engine here, it cannot load the file, or the file is no network."""
    if not is_installed(engine):
        raise ValueError(f"--engine {engine}: {TITLES[engine]} is not installed: pip install {engine}")
    try:
        session = ONNX_ENGINES[engine](path, device)
    except Exception as error:  # each engine has exceptions of its own
        what = " ".join(str(error).split())[:200]
        raise ValueError(f"{path}: {TITLES[engine]} cannot load it ({what}): is the file whole?") from None
    if [len(shape) for shape in session.inputs] != [4] or len(session.outputs) != 1:
        raise ValueError(f"{path}: is not a network from an image to logits: make it with scripts/export.py")
    return session


def is_installed(engine: str) -> bool:
    """Whether it can be imported, without doing so."""
    return engine in sys.modules or find_spec(engine) is not None


def engine_version(engine: str) -> str:
    """Of torch or another engine that is installed."""
    try:
        return version(engine)
    except PackageNotFoundError:  # package onnxruntime-gpu has the same module
        return version(f"{engine}-gpu")
