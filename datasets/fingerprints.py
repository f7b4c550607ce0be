"""What cases hold, as short digests: whether data are still those that something was trained on or scored with.

A digest depends on contents alone: neither on where a folder lies nor on when its files were written.
"""

import errno
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import numpy as np
from isal import isal_zlib
from PIL import Image

from datasets.slices.store import SliceRecord, npy_header, read_index, read_manifest

READERS = 8
LENGTH = 16  # hexadecimal digits of a case's digest

Digests = dict[str, list[str]]  # case -> the digest of its images and that of its targets


def digest(*parts: bytes | str) -> str:
    """A short hash of parts in their order."""
    hashed = hashlib.sha256()
    for part in parts:
        part = part.encode() if isinstance(part, str) else part
        hashed.update(len(part).to_bytes(8, "little") + part)
    return hashed.hexdigest()[:LENGTH]


def fingerprint(digests: Mapping[str, Sequence[str]], class_names: Sequence[str]) -> str:
    """SHA-256 of all cases and classes: equal for data of equal content, whatever the order of the cases."""
    content = [list(class_names), sorted([case, *parts] for case, parts in digests.items())]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def store_fingerprint(root: Path) -> str:
    """Of a whole slice store: its cases, their splits and what its label values are.

    Raises ValueError for what is no slice store, or a damaged one.
    """
    records, manifest = read_index(root), read_manifest(root)
    splits = sorted({(record.case, record.patient, record.split) for record in records})
    names = [f"{value} {name}" for value, name in sorted(manifest["labels"].items())]
    return fingerprint(slice_digests(records, {}), [*names, *("/".join(split) for split in splits)])


def slice_digests(records: Iterable[SliceRecord], classes: Mapping[int, str]) -> Digests:
    """The digests of the cases of a slice store. classes: the class that each label value stands for.

    An npz names the checksums of what it holds at its end, where they cost nothing to read; numpy compares them when
    it reads a slice. Of a PNG the image's file is read, and the label decoded: label digests are the same in both
    formats. Raises ValueError naming a file that is missing or damaged.
    """
    records = sorted(records, key=lambda record: (record.case, record.slice))
    meaning = json.dumps(sorted(classes.items()))
    images: dict[str, list[str]] = {}
    labels: dict[str, list[str]] = {}
    with ThreadPoolExecutor(READERS) as pool:
        for record, (image, label) in zip(records, pool.map(_checksums, records), strict=True):
            scale = f"{record.mean:.6g} {record.std:.6g}"  # a z-score is taken with them
            images.setdefault(record.case, [scale]).append(image)
            labels.setdefault(record.case, [meaning]).append(label)
    return {case: [digest(*images[case]), digest(*labels[case])] for case in images}


def _checksums(record: SliceRecord) -> tuple[str, str]:
    try:
        if record.path.suffix == ".npz":
            with ZipFile(record.path) as content:
                parts = {part.filename: part.CRC for part in content.infolist()}
            return f"{parts['image.npy']:08x}", f"{parts['label.npy']:08x}"
        with Image.open(record.path.with_name(f"{record.path.stem}_label.png")) as picture:
            label = np.asarray(picture).astype(np.uint8)
        return digest(record.path.read_bytes()), f"{_npy_checksum(label):08x}"
    except (BadZipFile, KeyError, OSError, SyntaxError) as error:  # Pillow calls damaged PNG a syntax error
        if isinstance(error, OSError) and error.errno not in (None, errno.ENOENT):
            raise
        what = "is missing" if isinstance(error, FileNotFoundError) else "is damaged"
        raise ValueError(f"{record.path}: {what}: slice {record.case} again with scripts/SliceMaker.py") from None


def _npy_checksum(array: np.ndarray) -> int:
    """The checksum that an npz keeps of this array."""
    return isal_zlib.crc32(np.ascontiguousarray(array), isal_zlib.crc32(npy_header(array.dtype.str, array.shape)))


def image_digests(
    cases: Sequence[str], contents: Callable[[int], bytes | np.ndarray], targets: Sequence[str]
) -> Digests:
    """The digests of labeled images. contents: by number, the bytes or pixels of an image; targets: class names."""

    def of(number: int) -> str:
        content = contents(number)
        if isinstance(content, np.ndarray):
            return digest(str(content.shape), content.tobytes())
        return digest(content)

    names = {target: digest(target) for target in set(targets)}
    with ThreadPoolExecutor(READERS) as pool:
        images = pool.map(of, range(len(cases)))
        return {case: [image, names[target]] for case, image, target in zip(cases, images, targets, strict=True)}
