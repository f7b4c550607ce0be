"""The steps of predicting a volume: open, read, label, finish; see read_ahead for who takes which when."""

from __future__ import annotations

import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from datasets.slices.boxes import Box
from datasets.slices.resampling import needs_millimeters
from datasets.volumes.checks import check_millimeters
from datasets.volumes.dicom import write_on_series
from datasets.volumes.geometry import to_slices
from datasets.volumes.nifti import write_volume
from datasets.volumes.reading import Image
from datasets.volumes.scans import Case
from utils.evaluation.volumes.components import count_voxels
from utils.evaluation.volumes.pairs import spacing_is_lost
from utils.prediction.inputs import Source, open_source
from utils.prediction.locating import Locator
from utils.prediction.outputs import LABELS, PROBABILITIES, SERIES, Predictions
from utils.prediction.postprocessing import keep_largest, remove_small
from utils.prediction.predictor import Clock, Predictor

COMPONENT_BYTES = 5  # of a voxel while its component is sought


def peak_memory() -> int:
    """Bytes of memory this process has held at most until now."""
    try:  # getrusage counts what the parent held as well, where this process was started by a large one
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    except (OSError, IndexError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


@dataclass(frozen=True)
class Options:
    """What the cases are and what is wanted of them.

    largest: class numbers of which the largest component is kept. minimum_ml: smaller components are removed. limit:
    bytes that a case may take.
    """

    class_names: Sequence[str]
    modality: str
    channel: int | None
    slice_axis: int | None
    probabilities: bool
    largest: Sequence[int]
    minimum_ml: float
    limit: float


@dataclass
class Underway:
    """A case between opening and finishing; arrays are in the order of the file. box: what a locator found."""

    source: Source
    clock: Clock
    image: Image | None = None
    labels: np.ndarray | None = None
    probabilities: list[np.ndarray] = field(default_factory=list)
    box: Box | None = None


class VolumeSteps:
    """Opens, reads, labels and finishes cases; `bar` shows the slices of the one that is being labeled."""

    def __init__(
        self,
        predictor: Predictor,
        predictions: Predictions,
        options: Options,
        bar: tqdm,
        locator: Locator | None = None,
    ) -> None:
        self.predictor, self.predictions, self.options, self.bar = predictor, predictions, options, bar
        self.locator = locator

    def open(self, case: Case) -> tuple[Underway, int]:
        """Read the headers; returns the bytes the case takes with it. Raises ValueError for what is not a volume."""
        options, clock = self.options, Clock()
        with clock("read"):
            source = open_source(case, options.modality, options.channel, options.slice_axis)
        predictors = [self.predictor, *([self.locator.predictor] if self.locator else [])]
        if self.locator or any(needs_millimeters(network.preprocessing) for network in self.predictor.networks):
            may_be_lost = options.modality == "CT" and source.series is None  # MR and a DICOM series may be of 1 mm
            lost = may_be_lost and spacing_is_lost(source.header.affine)
            for finding in check_millimeters(case.path, source.header, lost):
                raise ValueError(str(finding))
            shape = [source.header.shape[axis] for axis in source.axes]
            source.notes += dict.fromkeys(
                line for each in predictors for line in each.resampling(shape, source.spacing)
            )
        image = 2 if options.modality == "CT" else 4
        filtered = COMPONENT_BYTES if options.largest or options.minimum_ml else 0
        outputs = 1 + 2 * len(options.class_names) * options.probabilities
        size = source.voxels * (outputs + max(image, filtered))  # the image is gone by the time of the components
        if size > options.limit:
            limit = f"--memory allows {options.limit / 1e9:.1f}"
            raise ValueError(f"{case.path}: takes {size / 1e9:.1f} GB of memory, {limit}: raise it")
        return Underway(source, clock), size

    def read(self, underway: Underway) -> None:
        with underway.clock("read"):
            underway.image = underway.source.read()

    def label(self, underway: Underway) -> None:
        """Predict all slices, and let go of the image."""
        source, image = underway.source, underway.image
        underway.labels = np.zeros(image.array.shape, np.uint8)
        if self.options.probabilities:
            underway.probabilities = [np.zeros(image.array.shape, np.float16) for _ in self.options.class_names]
        slices, labels, *probabilities = (
            to_slices(array.T, source.axes, source.flips)
            for array in (image.array, underway.labels, *underway.probabilities)
        )
        known = source.spacing, image.statistics
        if self.locator:
            with underway.clock("locate"):
                underway.box = self.locator.box(slices, *known, Clock())
            if underway.box is None:
                source.notes.append("the locator found nothing: the whole volume is predicted")
            else:
                slices, labels, *probabilities = (each[underway.box] for each in (slices, labels, *probabilities))
        self.bar.reset(len(slices))
        self.predictor.label(slices, *known, labels, probabilities, underway.clock, self.bar.update)
        image.array = np.empty(0, image.array.dtype)

    def finish(self, underway: Underway) -> dict[str, Any]:
        """Filter components, write, record; returns the record."""
        source, labels, options = underway.source, underway.labels, self.options
        names, ran = options.class_names, [network.record() for network in self.predictor.networks]
        with underway.clock("postprocess"):
            if options.largest:
                keep_largest(labels, options.largest)
            if options.minimum_ml:
                remove_small(labels, range(1, len(names) + 1), options.minimum_ml / source.voxel_ml)
            voxels = count_voxels(labels, len(names) + 1)[1:].tolist()
        entry = {
            "image": str(source.case.path),
            "image_sha256": underway.image.sha256 or None,
            "shape": list(source.header.shape[:3]),
            "slices": source.header.shape[source.axes[0]],
            "classes": {str(number): name for number, name in enumerate(names, start=1)},
            "voxels": dict(zip(names, voxels, strict=True)),
            "volumes_ml": {name: count * source.voxel_ml for name, count in zip(names, voxels, strict=True)},
            "notes": source.notes,
            **({"box": source.in_file(underway.box)} if underway.box else {}),
            "device": ran[0]["device"],
            "formats": [each["format"] for each in ran],
            "engines": [each["engine"] for each in ran],
            "engines_why": [each["engine_why"] for each in ran],
            "threads": ran[0]["threads"],
            "batch_size": self.predictor.batch_size,
            "peak_memory_mb": round(peak_memory() / 1e6, 1),
        }
        write = {
            LABELS: partial(write_volume, header=source.header, arrays=[labels], dtype=np.uint8),
            PROBABILITIES: partial(
                write_volume, header=source.header, arrays=underway.probabilities, dtype=np.float32, channels=len(names)
            ),
            SERIES: partial(write_on_series, series=source.series, labels=labels),
        }
        self.predictions.publish(source.case, entry, write, underway.clock)
        return entry
