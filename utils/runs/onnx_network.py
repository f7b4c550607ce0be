"""An ONNX file as a network: image in, logits out, run by ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from datasets.slices.transforms import pad_center, unpad
from utils.runs.artifact import parse_description

if TYPE_CHECKING:
    import onnxruntime

DESCRIPTION_KEY, PRECISION_KEY = "description", "precision"
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
ERRORS_ONLY = 3


class OnnxNetwork(nn.Module):
    """Runs an ONNX file on as many threads as torch has, in the precision that the file has.

    On the processor, or on the GPU that the images are on where ONNX Runtime can (package onnxruntime-gpu). Buffers are
    kept between images but not planned by size: planning for each size a volume may have grows without end.

    Args:
        path: A file with one input (B, C, H, W) and one output, (B, K, H, W) or (B, K).
        pad_value: Of the pixels around an image that is smaller than the only size a file may take.

    Raises ValueError for a file that ONNX Runtime cannot load and for other inputs or outputs.
    """

    def __init__(self, path: Path, pad_value: float = 0.0) -> None:
        super().__init__()
        self.path, self.pad_value = path, pad_value
        if not path.is_file():
            raise ValueError(f"{path}: no such file: scripts/export.py writes ONNX files")
        self._device = "cpu"
        self._session = self._open("cpu")
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type != "tensor(float)":
            raise ValueError(f"{path}: is not a network from an image to logits: make it with scripts/export.py")
        self._input = inputs[0].name
        self.in_channels: int = inputs[0].shape[1]
        self.outputs: int = outputs[0].shape[1] if len(outputs[0].shape) in (2, 4) else 0
        height, width = inputs[0].shape[2:]
        self.size = (height, width) if isinstance(height, int) and isinstance(width, int) else None

    @property
    def precision(self) -> str:
        """fp32 or int8, as the file says."""
        return self._session.get_modelmeta().custom_metadata_map.get(PRECISION_KEY, "fp32")

    def description(self) -> dict[str, Any]:
        """What scripts/export.py wrote into the file. Raises ValueError where there is nothing."""
        held = self._session.get_modelmeta().custom_metadata_map.get(DESCRIPTION_KEY)
        if held is None:
            raise ValueError(f"{self.path}: does not say what it labels: make it with scripts/export.py")
        return parse_description(held, self.path)

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, H, W) on any device -> logits there, float32. Raises ValueError where the file cannot run them."""
        if image.device.type != self._device and image.device.type in PROVIDERS:
            self._session, self._device = self._open(image.device.type), image.device.type
        values = image.float().cpu().numpy()
        size = values.shape[2:]
        if self.size is not None and size != self.size:
            values = self._padded(values)
        try:
            (logits,) = self._session.run(None, {self._input: np.ascontiguousarray(values)})
        except Exception as error:  # ONNX Runtime has an exception for each of its states
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

    def _open(self, device: str) -> onnxruntime.InferenceSession:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.enable_mem_pattern = False
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = ERRORS_ONLY
        known = onnxruntime.get_available_providers()
        providers = [PROVIDERS[each] for each in dict.fromkeys((device, "cpu")) if PROVIDERS[each] in known]
        try:
            return onnxruntime.InferenceSession(str(self.path), options, providers=providers)
        except Exception as error:  # ONNX Runtime has an exception for each of its states
            what = " ".join(str(error).split())[:120]
            raise ValueError(f"{self.path}: ONNX Runtime cannot load it ({what}): is the file whole?") from None
