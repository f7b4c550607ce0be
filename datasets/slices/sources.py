"""The images that slices are made from, read when a case is sliced and again when a teacher asks for its source."""

import hashlib
from pathlib import Path

from isal import isal_zlib

from datasets.scan import scan
from datasets.volumes.dicom import Series, open_series, read_series
from datasets.volumes.dicom_files import group_series
from datasets.volumes.nifti import UnreadableVolumeError, read_header
from datasets.volumes.reading import Image, read_image

CHANGED = "has changed since it was sliced"


def read_slices(series: Series, modality: str) -> Image:
    """A series as `read_image` reads a file, with the SHA-256 of its files one after the other."""
    image, whole = read_series(series, modality), hashlib.sha256()
    for file in series.files:
        whole.update(file.read_bytes())
    image.checksum, image.sha256 = isal_zlib.crc32(image.array), whole.hexdigest()
    return image


def read_again(source: Path, modality: str, channel: int, sha256: str | None) -> Image:
    """The image that a case was sliced from: a NIfTI file, or the folder of a DICOM series, one of several perhaps.

    channel: of a file that has several. sha256: as it was sliced; None where it was not recorded. Raises
    UnreadableVolumeError for what is damaged or has changed, OSError for what is not there.
    """
    if source.is_dir():
        groups = [group for group in group_series(scan(source)) if group.folder == source]
        images = (read_slices(open_series(group), modality) for group in groups)
    else:
        images = iter([read_image(source, modality, channel if len(read_header(source).shape) > 3 else 0)])
    for image in images:
        if sha256 in (None, image.sha256):
            return image
    raise UnreadableVolumeError(source, CHANGED, "slice it again")
