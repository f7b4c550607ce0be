"""What cases hold, as short digests: whether data are still those that something was trained on or scored with.

A digest depends on contents alone: neither on where a folder lies nor on when its files were written.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

READERS = 8
LENGTH = 16  # hexadecimal digits of a case's digest

Digests = dict[str, list[str]]  # case -> the digest of its images and that of its targets


def digest(*parts: bytes | memoryview | str) -> str:
    """A short hash of parts in their order, each text or bytes."""
    hashed = hashlib.sha256()
    for part in parts:
        part = part.encode() if isinstance(part, str) else part
        hashed.update(len(part).to_bytes(8, "little"))
        hashed.update(part)
    return hashed.hexdigest()[:LENGTH]


def fingerprint(digests: Mapping[str, Sequence[str]], class_names: Sequence[str]) -> str:
    """SHA-256 of all cases and classes: equal for data of equal content, whatever the order of the cases."""
    content = [list(class_names), sorted([case, *parts] for case, parts in digests.items())]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


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
