"""An ONNX file in int8: post-training quantization, its ranges taken from training images."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from utils.exporting.onnx_file import INPUT, bare
from utils.exporting.program import quiet
from utils.runs.onnx_engines import ERRORS_ONLY
from utils.runs.onnx_network import OnnxNetwork

# Those that ONNX Runtime computes in integers on a processor; another one in between costs more than it saves.
OPERATIONS = (
    *("Conv", "Gemm", "MatMul", "Add", "Mul", "Relu", "LeakyRelu", "Clip", "Sigmoid"),
    *("MaxPool", "AveragePool", "GlobalAveragePool"),
)
RANGES = {"extremes": False, "mean extremes": True}  # of a feature over the images, or their mean over the images
DEFAULT_LOG = 2


@dataclass(frozen=True)
class Quantized:
    """How a file came about. `labels_differing`: share of the calibration images' labels that are not fp32's."""

    ranges: str
    images: int
    labels_differing: float


def quantize(source: Path, target: Path, images: Sequence[Tensor]) -> Quantized:
    """Write `source` with 8-bit weights (signed, per output channel) and features (unsigned) to `target`.

    Quantize-dequantize pairs as ONNX Runtime fuses them, after batch normalization is folded into convolutions. The
    ranges of features are their extremes over the images, or the mean of each image's extremes: whichever changes
    fewer of the images' labels.

    images: (C, H, W) each, as the network sees them.
    """
    from onnxruntime import set_default_logger_severity
    from onnxruntime.quantization import quant_pre_process

    set_default_logger_severity(ERRORS_ONLY)
    try:
        with tempfile.TemporaryDirectory() as folder, quiet(), contextlib.redirect_stdout(io.StringIO()):
            folded = Path(folder) / "folded.onnx"
            quant_pre_process(str(source), str(folded), skip_symbolic_shape=True)
            wanted = _labels(source, images)
            tried = {}
            for ranges in RANGES:
                file = Path(folder) / f"{ranges}.onnx"
                _write(folded, file, images, RANGES[ranges])
                tried[ranges] = _share_differing(_labels(file, images), wanted)
            best = min(tried, key=tried.get)
            target.write_bytes((Path(folder) / f"{best}.onnx").read_bytes())
    finally:
        set_default_logger_severity(DEFAULT_LOG)
    return Quantized(best, len(images), tried[best])


def _write(folded: Path, target: Path, images: Sequence[Tensor], mean_extremes: bool) -> None:
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        """Hands the images over one by one: they may differ in size."""

        def __init__(self) -> None:
            self.left: Iterator[Tensor] = iter(images)

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self.left, None)
            return None if image is None else {INPUT: image[None].numpy()}

    quantize_static(
        str(folded),
        str(target),
        Reader(),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=list(OPERATIONS),
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        extra_options={"CalibMovingAverage": mean_extremes},
    )
    model = onnx.load(target)
    bare(model)
    onnx.save(model, target)


@torch.inference_mode()
def _labels(file: Path, images: Sequence[Tensor]) -> list[Tensor]:
    network = OnnxNetwork(file)
    return [network(image[None]).argmax(1).to(torch.int16) for image in images]


def _share_differing(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    wrong = sum(int((a != b).sum()) for a, b in zip(ours, theirs, strict=True))
    return wrong / sum(each.numel() for each in theirs)
