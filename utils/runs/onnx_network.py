"""An ONNX file as a network: image in, logits out, run by ONNX Runtime or OpenVINO."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from datasets.slices.transforms import pad_center, unpad
from utils.runs.artifact import parse_description
from utils.runs.onnx_engines import DESCRIPTION_KEY, PRECISION_KEY, PROVIDERS, open_session


class OnnxNetwork(nn.Module):
    """Runs an ONNX file on as many threads as torch has, in the precision that the file has.

    On the processor; ONNX Runtime also on the GPU that the images are on where it can (package onnxruntime-gpu).

    Args:
        path: A file with one input (B, C, H, W) and one output, (B, K, H, W) or (B, K).
        engine: onnxruntime or openvino.
        pad_value: Of the pixels around an image that is smaller than the only size a file may take.

    Raises ValueError where the engine is missing or cannot load the file, and for other inputs or outputs.
    """

    def __init__(self, path: Path, pad_value: float = 0.0, engine: str = "onnxruntime") -> None:
        super().__init__()
        self.path, self.pad_value, self.engine = path, pad_value, engine
        if not path.is_file():
            raise ValueError(f"{path}: no such file: scripts/export.py writes ONNX files")
        self._device = "cpu"
        self._session = open_session(path, engine, "cpu")
        _, self.in_channels, height, width = self._session.inputs[0]
        output = self._session.outputs[0]
        self.outputs: int = output[1] if len(output) in (2, 4) else 0
        self.size = None if height is None or width is None else (height, width)

    @property
    def precision(self) -> str:
        """fp32 or int8, as the file says."""
        return self._session.metadata.get(PRECISION_KEY, "fp32")

    def description(self) -> dict[str, Any]:
        """What scripts/export.py wrote into the file. Raises ValueError where there is nothing."""
        held = self._session.metadata.get(DESCRIPTION_KEY)
        if held is None:
            raise ValueError(f"{self.path}: does not say what it labels: make it with scripts/export.py")
        return parse_description(held, self.path)

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, H, W) on any device -> logits there, float32. Raises ValueError where the file cannot run them."""
        kind = image.device.type
        if kind != self._device and kind in PROVIDERS and self.engine == "onnxruntime":
            self._session, self._device = open_session(self.path, self.engine, kind), kind
        values = image.float().cpu().numpy()
        size = values.shape[2:]
        if self.size is not None and size != self.size:
            values = self._padded(values)
        try:
            logits = self._session.run(np.ascontiguousarray(values))
        except Exception as error:  # each engine has exceptions of its own
            what = " ".join(str(error).split())[:200]
            raise ValueError(f"{self.path}: fails on images of {size[0]}x{size[1]} ({what})") from None
        result = torch.from_numpy(logits).to(image.device)
        return unpad(result, size) if result.ndim == 4 and result.shape[2:] != size else result

    def _padded(self, values: np.ndarray) -> np.ndarray:
        """Images of a size that the file does not take, padded to the one it does."""
        if any(ours > theirs for ours, theirs in zip(values.shape[2:], self.size, strict=True)):
            height, width = self.size
            raise ValueError(
                f"{self.path}: takes images of at most {height}x{width}, not {values.shape[2]}x{values.shape[3]}: "
                "export the network with a larger crop, or predict with its checkpoint"
            )
        planes = [pad_center(plane, self.size, self.pad_value) for plane in values.reshape(-1, *values.shape[2:])]
        return np.stack(planes).reshape(*values.shape[:2], *self.size)
