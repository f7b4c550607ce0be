"""Which pixels, network and engine label a volume in a given time on this machine: each is timed with one slice."""

from __future__ import annotations

import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datasets.slices.neighbors import channels_of
from datasets.slices.transforms import padded_size
from datasets.volumes.reading import read_image
from datasets.volumes.stream import UnreadableVolumeError
from networks import SEGMENTATION
from utils.exporting.onnx_file import write_onnx
from utils.exporting.program import NotExportableError, capture
from utils.exporting.quantization import quantize
from utils.exporting.rewriting import rewrite
from utils.planning import recipes
from utils.planning.choices import COARSER_BY, SMALL_CROP, Choice, PixelGrid, crop_of, neighbors_of
from utils.planning.fingerprint import CaseFacts, Fingerprint
from utils.recipe.registry import build
from utils.runs.onnx_engines import is_installed
from utils.runs.onnx_network import OnnxNetwork

COARSER = 1.2, 1.6, 2.0, 2.5, 3.0  # mm
STUDENTS = "resnet18", "erfnet", "enet", "espnet"
INT8 = "onnxruntime int8"
ROUNDS = 4  # of which the fastest counts
UNITS = {"ms": 1e-3, "s": 1.0, "min": 60.0}


def seconds_of(text: str) -> float:
    """Seconds of a text such as `5 s`, `500 ms` or `2 min`. Raises ValueError for others."""
    match = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*(ms|s|min)?\s*", text)
    if match is None or not float(match[1]):
        raise ValueError(f"--budget {text!r}: give a time for one volume, such as '5 s', '500 ms' or '2 min'")
    return float(match[1]) * UNITS[match[2] or "s"]


@dataclass(frozen=True)
class Timing:
    """A way to label a volume, and what it takes: milliseconds for a stored slice, seconds for all."""

    spacing: float | None
    pixel: float | None
    network: str
    parameters: int
    engine: str
    milliseconds: float
    seconds: float


@dataclass(frozen=True)
class Budget:
    """What was timed, finest pixels first, and which one is best.

    Args:
        limit: Seconds.
        read: Seconds to read the volume's file, which are in those of every candidate; None where it is not there.
        volume: Slices, rows and columns of the volume.
    """

    limit: float
    read: float | None
    volume: tuple[int, int, int]
    candidates: list[Timing]
    best: Timing

    @property
    def rows(self) -> list[dict[str, str]]:
        """A table of the candidates."""
        return [
            {
                "pixel": "" if each.pixel is None else f"{each.pixel:.2f} mm",
                "network": each.network,
                "parameters": f"{each.parameters / 1e6:.2f} M",
                "engine": each.engine,
                "ms a slice": f"{each.milliseconds:.1f}",
                "s a volume": f"{each.seconds:.2f}",
                "": "best" if each is self.best else "fits" if each.seconds <= self.limit else "",
            }
            for each in self.candidates
        ]

    @property
    def spacing(self) -> Choice:
        """Of the best."""
        size = "the finest pixels" if self.best.pixel is None else f"{self.best.pixel:.2g} mm are the finest pixels"
        return Choice(self.best.spacing, f"{size} at which a student labels a volume in {self.limit:g} s here")

    @property
    def student(self) -> Choice:
        """The network of the best."""
        took = f"{self.best.seconds:.2g} s with {self.best.engine}"
        return Choice(self.best.network, f"of those that fit at this spacing the one with most parameters: {took}")


def spend(fingerprint: Fingerprint, finest: PixelGrid, students: Sequence[str], limit: float) -> Budget:
    """Time candidates at finer and then coarser pixels, until one fits.

    The best has the finest pixels, then the most parameters; it runs in the fastest engine, and in int8, which loses a
    little, only where nothing else fits. Raises ValueError where not even the coarsest fit.
    """
    case = median_case(fingerprint)
    read = _reading(fingerprint, case)
    start, candidates = finest.pixel(fingerprint), []
    grids = [
        finest,
        *(PixelGrid(mm, finest.slice_spacing) for mm in COARSER if start is not None and mm > COARSER_BY * start),
    ]
    with tempfile.TemporaryDirectory(prefix="plan-") as folder:
        makers = [Forms(name, len(fingerprint.class_names) + 1, Path(folder)) for name in students]
        for grid in grids:
            for int8 in (False, True):
                timed = _time_all(fingerprint, case, grid, makers, int8, read or 0.0)
                candidates += timed
                if fits := [each for each in timed if each.seconds <= limit]:
                    best = max(fits, key=lambda each: (each.parameters, -each.seconds))
                    return Budget(limit, read, case.source, candidates, best)
    fastest = min(candidates, key=lambda each: each.seconds)
    where = "" if fastest.pixel is None else f" at {fastest.pixel:.2g} mm"
    raise ValueError(
        f"--budget {limit:g} s: the fastest, {fastest.network}{where} with {fastest.engine}, takes "
        f"{fastest.seconds:.2g} s for a volume of {'x'.join(map(str, case.source))}: give more time"
    )


def median_case(fingerprint: Fingerprint) -> CaseFacts:
    """The training case with the median number of voxels in its source."""
    ranked = sorted(fingerprint.training, key=lambda case: case.source[0] * case.source[1] * case.source[2])
    return ranked[len(ranked) // 2]


def _reading(fingerprint: Fingerprint, case: CaseFacts) -> float | None:
    if case.image is None or not case.image.is_file():
        return None
    started = time.perf_counter()
    try:
        read_image(case.image, fingerprint.modality, fingerprint.channel or 0)
    except (OSError, UnreadableVolumeError):
        return None
    return time.perf_counter() - started


@dataclass
class Forms:
    """A student's network with random weights in every engine that is installed; files lie in `folder`."""

    name: str
    num_classes: int
    folder: Path
    made: dict[tuple[str, int, int], nn.Module | None] = field(default_factory=dict)

    def network(self, channels: int, crop: int) -> nn.Module:
        """In torch."""
        given = {"in_channels": channels, "num_classes": self.num_classes, "image_size": crop}
        section = recipes.network_section(self.name, crop)
        return self._kept("torch", channels, crop, lambda: build(SEGMENTATION, section, "network", **given).eval())

    def engines(self, channels: int, crop: int, int8: bool) -> dict[str, nn.Module]:
        """By engine; those that cannot run it are left out."""
        if int8:
            found = {INT8: self._kept(INT8, channels, crop, lambda: self._quantized(channels, crop))}
        else:
            found = {"torch": self.network(channels, crop)}
            for engine in filter(is_installed, ("onnxruntime", "openvino")):
                make = lambda engine=engine: self._opened(engine, channels, crop)  # noqa: E731
                found[engine] = self._kept(engine, channels, crop, make)
        return {engine: network for engine, network in found.items() if network is not None}

    def _kept(self, engine: str, channels: int, crop: int, make: Callable[[], nn.Module]) -> nn.Module | None:
        key = engine, channels, 0 if crop > SMALL_CROP else crop  # what a larger crop does not change
        if key not in self.made:
            try:
                self.made[key] = make()
            except (NotExportableError, ValueError):
                self.made[key] = None
        return self.made[key]

    def _file(self, channels: int, crop: int) -> Path:
        path = self.folder / f"{self.name}_{channels}_{min(crop, SMALL_CROP + 1)}.onnx"
        if not path.exists():
            write_onnx(capture(rewrite(self.network(channels, crop)), channels, crop), path)
        return path

    def _opened(self, engine: str, channels: int, crop: int) -> nn.Module:
        return OnnxNetwork(self._file(channels, crop), engine=engine)

    def _quantized(self, channels: int, crop: int) -> nn.Module:
        source = self._file(channels, crop)
        target = source.with_suffix(".int8.onnx")
        generator = torch.Generator().manual_seed(0)
        quantize(source, target, [torch.rand(channels, crop, crop, generator=generator) for _ in range(2)])
        return OnnxNetwork(target)


def _time_all(
    fingerprint: Fingerprint, case: CaseFacts, grid: PixelGrid, makers: Sequence[Forms], int8: bool, read: float
) -> list[Timing]:
    """Candidates of all networks at one grid; after each network a line on stderr says how long the others take."""
    timed, started = [], time.perf_counter()
    for done, forms in enumerate(makers, start=1):
        timed += _time(fingerprint, case, grid, forms, int8, read)
        if done == len(makers):
            break
        left = (time.perf_counter() - started) / done * (len(makers) - done)
        where = "" if (size := grid.pixel(fingerprint)) is None else f" at {size:.2f} mm"
        form = " in int8" if int8 else ""
        print(f"{done} of {len(makers)} networks{where}{form}, about {left:.0f} s left", file=sys.stderr, flush=True)
    return timed


@torch.inference_mode()
def _time(
    fingerprint: Fingerprint, case: CaseFacts, grid: PixelGrid, forms: Forms, int8: bool, read: float
) -> list[Timing]:
    """Candidates of one network at one grid: a slice resampled, labeled, and its logits brought back.

    Stored slices are labeled, and every slice of the source has logits brought back to it: with slabs these are more.
    """
    crop, channels = crop_of(fingerprint, grid)[0].value, channels_of(neighbors_of(fingerprint, grid)[0].value)
    size, slices = grid.size(case), grid.slices(case)
    image = torch.rand(1, channels, *padded_size(size, crop)) * 2 - 1
    source = torch.rand(1, 1, *case.source[1:])
    parameters = sum(value.numel() for value in forms.network(channels, crop).parameters())
    found = []
    for engine, network in forms.engines(channels, crop, int8).items():
        try:
            rounds = [_seconds(network, image, source, size) for _ in range(ROUNDS)]
        except ValueError:  # an engine that has this network, but not images of this size
            continue
        label, back = map(min, zip(*rounds, strict=True))
        seconds = label * slices + back * case.source[0]
        found.append(
            Timing(
                spacing=grid.spacing,
                pixel=grid.pixel(fingerprint),
                network=forms.name,
                parameters=parameters,
                engine=engine,
                milliseconds=1e3 * seconds / slices,
                seconds=read + seconds,
            )
        )
        where = "" if found[-1].pixel is None else f" at {found[-1].pixel:.2f} mm"
        print(f"timed {forms.name}{where} with {engine}: {found[-1].seconds:.2f} s", file=sys.stderr, flush=True)
    return found


def _seconds(network: nn.Module, image: Tensor, source: Tensor, size: tuple[int, int]) -> tuple[float, float]:
    """Of what a prediction does: a slice resampled and labeled, and its logits brought back to one of the source."""
    resamples = source.shape[2:] != size
    started = time.perf_counter()
    if resamples:
        F.interpolate(source, size=size, mode="area")
    logits = network(image)[..., : size[0], : size[1]]
    labeled = time.perf_counter()
    if resamples:
        logits = F.interpolate(logits, size=source.shape[2:], mode="bilinear", align_corners=False)
    logits.argmax(1)
    return labeled - started, time.perf_counter() - labeled
