"""A volume to predict: opened by its header, read when its turn comes."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from datasets.slices.boxes import Box
from datasets.volumes.checks import check_header, check_image
from datasets.volumes.dicom import Series, open_series, read_series
from datasets.volumes.dicom_files import SeriesFiles
from datasets.volumes.geometry import orient, voxel_ml
from datasets.volumes.nifti import Header, UnreadableVolumeError, read_header
from datasets.volumes.reading import Image, read_image
from datasets.volumes.scans import Case


@dataclass
class Source:
    """A case whose headers were read. `axes` and `flips` lead to axial slices; `notes` are printed, and stop nothing.

    series: of a DICOM folder, else None.
    """

    case: Case
    header: Header
    series: Series | None
    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]
    modality: str
    channel: int
    notes: list[str] = field(default_factory=list)

    @property
    def voxels(self) -> int:
        return int(np.prod(self.header.shape[:3]))

    @property
    def spacing(self) -> tuple[float, ...]:
        """mm between slices, rows and columns."""
        return tuple(self.header.spacing[axis] for axis in self.axes)

    @property
    def voxel_ml(self) -> float:
        return voxel_ml(self.header.affine)

    def in_file(self, box: Box) -> list[list[int]]:
        """The first voxel and the one after the last of a box (slices, rows, columns), along each axis of the file."""
        ranges: list[list[int]] = [[], [], []]
        for part, axis, flip in zip(box, self.axes, self.flips, strict=True):
            length = self.header.shape[axis]
            ranges[axis] = [length - part.stop, length - part.start] if flip else [part.start, part.stop]
        return ranges

    def read(self) -> Image:
        """The voxels, int16 HU or float32. Raises ValueError for a damaged file and values that cannot be used."""
        if self.series is None:
            image = read_image(self.case.path, self.modality, self.channel)
        else:
            image = read_series(self.series, self.modality)
        for finding in check_image(self.case.path, image, self.modality):
            if image.problem:
                raise ValueError(str(finding))
            self.notes.append(f"{finding.what}: {finding.remedy}")
        return image


def open_source(case: Case, modality: str, channel: int | None, slice_axis: int | None) -> Source:
    """Read the headers of a case. Raises ValueError, in one line with its file, where it cannot be predicted."""
    if case.series is not None:
        return _open_series(case, case.series, modality, slice_axis)
    header = read_header(case.path)
    channels = header.shape[3] if len(header.shape) == 4 else 1
    if channels > 1 and channel is None:
        remedy = f"choose one with --channel 0..{channels - 1}"
        raise UnreadableVolumeError(case.path, f"four axes, shape {header.shape}", remedy)
    if (channel or 0) >= channels:
        raise UnreadableVolumeError(case.path, f"no channel {channel}", "choose a lower --channel")
    findings = check_header(case.path, header)
    for finding in findings:
        if finding.bad:
            raise UnreadableVolumeError(case.path, finding.what, finding.remedy)
    source = _oriented(case, header, None, modality, channel or 0, slice_axis)
    source.notes += [f"{finding.what}: {finding.remedy}" for finding in findings]
    return source


def _open_series(case: Case, files: SeriesFiles, modality: str, slice_axis: int | None) -> Source:
    series = open_series(files)
    if series.modality and series.modality != modality:
        what = f"the series is {series.modality}, the checkpoint learnt {modality}"
        raise UnreadableVolumeError(case.path, what, f"give a {modality} series")
    source = _oriented(case, series.header, series, modality, 0, slice_axis)
    source.notes += files.notes
    return source


def _oriented(
    case: Case, header: Header, series: Series | None, modality: str, channel: int, slice_axis: int | None
) -> Source:
    try:
        axes, flips = orient(header.affine, slice_axis)
    except ValueError:
        what = "affine is singular or not finite"
        raise UnreadableVolumeError(case.path, what, "write the volume again with its affine") from None
    return Source(case, header, series, axes, flips, modality, channel)
