"""The digests of a slice store's cases."""

import errno
import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import numpy as np
from PIL import Image

from datasets.fingerprints import READERS, Digests, digest, fingerprint
from datasets.slices.npz import array_checksum, read_checksums
from datasets.slices.source_labels import SOURCE_LABELS, SourceLabels
from datasets.slices.store import SliceRecord, read_index, read_manifest


def store_fingerprint(root: Path) -> str:
    """The fingerprint of a whole slice store: its cases, their splits and what its label values are.

    Raises ValueError where the folder is not a slice store, or is a damaged one.
    """
    records, manifest = read_index(root), read_manifest(root)
    splits = sorted({(record.case, record.patient, record.split) for record in records})
    names = [f"{value} {name}" for value, name in sorted(manifest["labels"].items())]
    return fingerprint(slice_digests(records, {}), [*names, *("/".join(split) for split in splits)])


def slice_digests(records: Iterable[SliceRecord], classes: Mapping[int, str]) -> Digests:
    """The digests of the cases of a slice store. classes: the class that each label value stands for.

    An npz names the checksums of what it holds, where they cost nothing to read; they are compared when a slice is
    read. For a PNG the image's file is read and the label is decoded: label digests are the same in both
    formats. Those of a resampled case are of its source's labels, so its target is known by one digest at any spacing,
    and the stored labels count as part of its image. Raises ValueError naming a file that is missing or damaged.
    """
    images, labels = _contents(records := list(records))
    meaning = json.dumps(sorted(classes.items()))
    labels = {case: [meaning, *parts] for case, parts in labels.items()}
    for case, record in {record.case: record for record in records}.items():
        if (record.path.parent / SOURCE_LABELS).is_file():
            images[case] += labels[case]
            labels[case] = [meaning, *(f"{each:08x}" for each in SourceLabels(record.path.parent).checksums)]
    return {case: [digest(*images[case]), digest(*labels[case])] for case in images}


def slice_image_digests(records: Iterable[SliceRecord]) -> dict[str, str]:
    """The digest of each case's stored images, whatever its labels are: what soft maps belong to."""
    return {case: digest(*parts) for case, parts in _contents(records)[0].items()}


def _contents(records: Iterable[SliceRecord]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """The checksums of each case's images, behind the numbers of its z-score, and those of its labels."""
    records = sorted(records, key=lambda record: (record.case, record.slice))
    images: dict[str, list[str]] = {}
    labels: dict[str, list[str]] = {}
    with ThreadPoolExecutor(READERS) as pool:
        for record, (image, label) in zip(records, pool.map(_checksums, records), strict=True):
            images.setdefault(record.case, [f"{record.mean:.6g} {record.std:.6g}"]).append(image)
            labels.setdefault(record.case, []).append(label)
    return images, labels


def _checksums(record: SliceRecord) -> tuple[str, str]:
    try:
        if record.path.suffix == ".npz":
            parts = read_checksums(record.path)
            if parts is None:
                with ZipFile(record.path) as content:
                    parts = {part.filename.removesuffix(".npy"): part.CRC for part in content.infolist()}
            return f"{parts['image']:08x}", f"{parts['label']:08x}"
        with Image.open(record.path.with_name(f"{record.path.stem}_label.png")) as picture:
            label = np.asarray(picture).astype(np.uint8)
        return digest(record.path.read_bytes()), f"{array_checksum(label):08x}"
    except (BadZipFile, KeyError, OSError, SyntaxError) as error:  # Pillow calls damaged PNG a syntax error
        if isinstance(error, OSError) and error.errno not in (None, errno.ENOENT):
            raise
        what = "is missing" if isinstance(error, FileNotFoundError) else "is damaged"
        raise ValueError(f"{record.path}: {what}: slice {record.case} again with scripts/SliceMaker.py") from None
