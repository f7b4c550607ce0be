"""Oversample small classes with SMOTE (Chawla et al. 2002) on raw pixels, as HDKD's `--use_smote` does.

A made image is a point on the line between two images of a class, pixel by pixel: a double exposure of two lesions,
which no camera takes. That is weak practice, kept because it was published: an independent re-creation of HDKD found
class-weighted cross entropy better. Nothing is made for val or test.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datasets.files import remedy_of

NEIGHBORS = 5
FACTOR = 4  # peak memory of imbalanced-learn over the class it returns, measured 3.5 to 4.0


def read_distribution(file: Path, class_names: Sequence[str], counts: Sequence[int]) -> list[int]:
    """How many images of each class training shall have, according to a `classes_distribution.json`.

    file: JSON `{class: number of images}`; a class is written by its name or its number ("0" is the first). A class
    that is not named keeps its `counts`. Raises ValueError for anything else, and for fewer images than there are.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
        pairs = list(content.items())
    except OSError as error:
        raise ValueError(f"{file}: no distribution of classes ({error.strerror}): {remedy_of(error)}") from None
    except (ValueError, AttributeError) as error:
        raise ValueError(f'{file}: no distribution of classes ({error}): give JSON such as {{"nv": 5000}}') from None
    wanted = list(counts)
    for key, count in pairs:
        if key in class_names:
            label = list(class_names).index(key)
        elif key.isdecimal() and int(key) < len(class_names):
            label = int(key)
        else:
            raise ValueError(f"{file}: class {key!r} is unknown: name one of {', '.join(class_names)}, or its number")
        if type(count) is not int:
            raise ValueError(f"{file}: {count!r} images of {class_names[label]} wanted: give a whole number")
        if count < counts[label]:
            raise ValueError(
                f"{file}: {count} images of {class_names[label]} wanted, there are {counts[label]}: SMOTE only adds"
            )
        wanted[label] = count
    return wanted


def check_memory(counts: Sequence[int], wanted: Sequence[int], values: int, limit_mb: int) -> None:
    """Raise ValueError when `oversample` would need more memory than allowed; images have `values` values.

    Classes are enlarged one after the other: the largest of them in float32 times what imbalanced-learn needs, beside
    all images, old and new, as bytes twice.
    """
    largest = max((count for present, count in zip(counts, wanted, strict=True) if count > present), default=0)
    needed = values * (4 * FACTOR * largest + 2 * sum(wanted)) / 2**20
    if needed > limit_mb:
        raise ValueError(
            f"SMOTE from {sum(counts)} to {sum(wanted)} images of {values} values needs about {needed:.0f} MB, "
            f"smote_mb allows {limit_mb}: lower image_size or the wanted counts, or raise smote_mb"
        )


def oversample(
    images: np.ndarray, labels: np.ndarray, wanted: Sequence[int], class_names: Sequence[str], seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """The images to add so that class k has `wanted[k]`: uint8 (M, ...) and their labels (M,), from the seed alone.

    images: uint8 (N, ...). Neighbors are the 5 nearest of the class, or all others of a class of fewer than 6. Raises
    ValueError for a class to be enlarged that has fewer than 2 images.
    """
    from imblearn.over_sampling import SMOTE

    made, made_labels = [images[:0]], [labels[:0]]
    for label, count in enumerate(wanted):
        members = np.flatnonzero(labels == label)
        if count <= len(members):
            continue
        if len(members) < 2:
            raise ValueError(
                f"SMOTE makes an image from 2 of its class, {class_names[label]} has {len(members)}: leave it out"
            )
        neighbors = min(NEIGHBORS, len(members) - 1)
        sampler = SMOTE(sampling_strategy={1: count}, k_neighbors=neighbors, random_state=seed)
        # One class at a time takes less memory; imbalanced-learn wants another one beside it, of a single image.
        flat = images[np.append(members, 0)].reshape(len(members) + 1, -1).astype(np.float32)
        part, _ = sampler.fit_resample(flat, np.append(np.ones(len(members), int), 0))
        made.append(np.rint(part[len(flat) :]).astype(np.uint8).reshape(-1, *images.shape[1:]))
        made_labels.append(np.full(len(made[-1]), label))
    return np.concatenate(made), np.concatenate(made_labels)
