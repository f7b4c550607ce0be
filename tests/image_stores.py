"""Small sets of labeled images in the published layouts."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

MEDMNIST_COUNTS = {"train": (12, 6, 3), "val": (3, 2, 1), "test": (4, 2, 2)}
LEAK_COLUMNS = ("lesion_id", "iddx_full", "iddx_1", "mel_mitotic_index", "mel_thick_mm", "tbp_lv_dnn_lesion_confidence")


def picture(label: int, seed: int, side: int = 28, channels: int = 3) -> np.ndarray:
    """uint8 (side, side[, 3]): noise, with a bright square whose size tells the class."""
    image = np.random.default_rng(seed).integers(60, 120, (side, side, channels), dtype=np.uint8)
    reach = side // 8 * (label + 1)
    image[side // 2 - reach : side // 2 + reach, side // 2 - reach : side // 2 + reach] += 100
    return image if channels == 3 else image[..., 0]


def write_medmnist(
    path: Path, counts: dict[str, Sequence[int]] = MEDMNIST_COUNTS, side: int = 28, channels: int = 3
) -> Path:
    """An npz as MedMNIST's: images of each class per split, mixed; gray (N, H, W) with `channels` 1."""
    arrays = {}
    for number, (split, per_class) in enumerate(counts.items()):
        labels = np.random.default_rng(number).permutation(np.repeat(np.arange(len(per_class)), per_class))
        images = [picture(label, 1000 * number + row, side, channels) for row, label in enumerate(labels)]
        arrays |= {f"{split}_images": np.stack(images), f"{split}_labels": labels[:, None].astype(np.uint8)}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)
    return path


def write_image(path: Path, label: int, seed: int, side: int = 40, channels: int = 3) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(label, seed, side, channels)).save(path)
    return path


def write_image_folder(root: Path) -> Path:
    """train: 10 glioma, 6 meningioma, 4 none (gray PNG); test: 3, 2, 2; no val."""
    for split, counts in {"train": (10, 6, 4), "test": (3, 2, 2)}.items():
        for label, (name, count) in enumerate(zip(("glioma", "meningioma", "none"), counts, strict=True)):
            for number in range(count):
                gray = name == "none"
                file = root / split / name / f"{split}_{name}_{number}{'.png' if gray else '.jpg'}"
                write_image(file, label, 100 * label + number + 50 * (split == "test"), channels=1 if gray else 3)
    return root


def write_isic(root: Path, patients: int = 20, lesions: int = 6) -> Path:
    """`train-image.hdf5` and `train-metadata.csv` as ISIC 2024 has them; every other patient has one malignant lesion.

    Columns are a part of the official ones, with numbers, categories, gaps, and all that leak.
    """
    root.mkdir(parents=True, exist_ok=True)
    columns = ["isic_id", "target", "patient_id", "age_approx", "sex", "anatom_site_general", "tbp_lv_areaMM2"]
    rows = []
    with h5py.File(root / "train-image.hdf5", "w") as store:
        for number in range(patients * lesions):
            patient, lesion = divmod(number, lesions)
            target = int(patient % 2 == 0 and lesion == 0)
            isic_id = f"ISIC_{number:07d}"
            encoded = io.BytesIO()
            Image.fromarray(picture(target, number, 24 + number % 5)).save(encoded, "JPEG")
            store[isic_id] = np.void(encoded.getvalue())
            site = ("torso", "head/neck", "lower extremity", "")[number % 4]
            age = "NA" if patient == 3 else str(40 + patient)
            row = [isic_id, target, f"IP_{patient:07d}", age, ("male", "female")[patient % 2], site, f"{number / 8}"]
            rows.append([*row, *("malignant" if target else "" for _ in LEAK_COLUMNS)])
    with (root / "train-metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows([[*columns, *LEAK_COLUMNS], *rows])
    return root
