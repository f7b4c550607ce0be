"""Fixtures that several test files share."""

import csv
import gc
import json
import locale
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from datasets.splits import split_sha256

# One thread for a process, and for those that tests start: pytest-xdist has a worker on every core (scripts/test.sh).
os.environ["OMP_NUM_THREADS"] = "1"


def pytest_collection_finish() -> None:
    """What was imported stays: to look through it again and again would take seconds."""
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def cache_of_user(tmp_path_factory):
    """What programs remember about this machine stays out of the user's folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def left(tmp_path):
    """A folder for what another program leaves."""
    (tmp_path / "left").mkdir()
    return tmp_path / "left"


SPLIT = {
    "train": ["case_00000", "case_00001", "case_00002"],
    "val": ["case_00003"],
    "test": ["case_00004", "case_00005"],
}
SHA256 = split_sha256(SPLIT)
SLICES = 6


def write_store(
    root: Path,
    cases: dict[str, tuple[np.ndarray, np.ndarray]],
    modality: str,
    labels: dict[int, str],
    tumor_labels: Sequence[int],
    task: str,
    dataset: str,
    split: dict[str, list[str]] = SPLIT,
) -> Path:
    """Write cases {name: (image, label)}, both (slices, H, W), as a slice store; a case is a patient."""
    split_of = {case: name for name, members in split.items() for case in members}
    rows = []
    for case, (image, label) in cases.items():
        (root / case).mkdir(parents=True)
        statistics = [image.mean(dtype=float), image.std(dtype=float), *np.percentile(image, (0.5, 99.5))]
        for number in range(len(image)):
            file = f"{case}/{number:04d}.npz"
            np.savez(root / file, image=image[number], label=label[number])
            present = " ".join(str(value) for value in np.unique(label[number]) if value > 0)
            rows.append([case, case, number, file, split_of[case], present, *(f"{value:.9g}" for value in statistics)])
    with (root / "index.csv").open("w", newline="") as file:
        columns = ["case", "patient", "slice", "file", "split", "labels", "mean", "std", "p005", "p995"]
        csv.writer(file).writerows([columns, *rows])
    manifest = {
        "dataset": dataset,
        "modality": modality,
        "format": "npz",
        "task": task,
        "labels": {str(value): name for value, name in labels.items()},
        "tumor_labels": list(tumor_labels),
        "split_sha256": split_sha256(split),
    }
    (root / "dataset.json").write_text(json.dumps(manifest))
    (root / "split.json").write_text(json.dumps({"seed": 0, "ratios": [0.5, 0.2, 0.3], **split}))
    return root


def stored(root, case, number):
    with np.load(Path(root) / case / f"{number:04d}.npz") as content:
        return content["image"], content["label"]


def store_of(root, image, label, labels=None, tumor_labels=(2,), **arguments):
    """A store whose train, val and test case are all this (slices, H, W) volume."""
    split = {"train": ["a"], "val": ["b"], "test": ["c"]}
    cases = dict.fromkeys("abc", (image, label))
    labels = {1: "kidney", 2: "tumor"} if labels is None else labels
    arguments = {"modality": "CT", "task": "tumor", "dataset": "kits"} | arguments
    return write_store(root, cases, labels=labels, tumor_labels=tumor_labels, split=split, **arguments)


def ellipse(shape: tuple[int, int], center: tuple[float, float], radii: tuple[float, float]) -> np.ndarray:
    """True inside the ellipse, (H, W)."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return ((rows - center[0]) / radii[0]) ** 2 + ((columns - center[1]) / radii[1]) ** 2 <= 1


@pytest.fixture(autouse=True)
def own_locale():
    """Tests that write DICOM with ITK leave the locale at C, in which text files would be read as ASCII."""
    before = locale.setlocale(locale.LC_ALL)
    yield
    locale.setlocale(locale.LC_ALL, before)


@pytest.fixture
def slice_store(tmp_path: Path) -> Path:
    """CT with KiTS labels, six cases of six 40x48 slices: kidney in slices 1 to 4, tumor in 2 and 3.

    case_00001 is 44x40; case_00005 (test) has no tumor. Fat -100, kidney 120, tumor 40 HU, noise of 10 HU.
    """
    random = np.random.default_rng(0)
    cases = {}
    for number in range(6):
        shape = (44, 40) if number == 1 else (40, 48)
        image = np.full((SLICES, *shape), -100.0)
        label = np.zeros((SLICES, *shape), dtype=np.uint8)
        center = (14 + number, 14 + 2 * number)
        for z in range(1, 5):
            label[z][ellipse(shape, center, (9, 7))] = 1
            if z in (2, 3) and number != 5:
                label[z][ellipse(shape, (center[0] - 2, center[1] + 3), (4, 3))] = 2
        image[label == 1], image[label == 2] = 120, 40
        image += random.normal(0, 10, image.shape)
        cases[f"case_{number:05d}"] = (image.astype(np.int16), label)
    return write_store(tmp_path / "kits", cases, "CT", {1: "kidney", 2: "tumor"}, [2], "tumor", "kits")


@pytest.fixture
def mr_store(tmp_path: Path) -> Path:
    """MR with hippocampus labels, six cases of six 35x51 slices: anterior in slices 1 to 3, posterior in 3 and 4.

    float32; the intensity scale of each case is ten times that of the one before.
    """
    random = np.random.default_rng(0)
    cases = {}
    for number in range(6):
        label = np.zeros((SLICES, 35, 51), dtype=np.uint8)
        label[1:4, 8:18, 10 + number : 24] = 1
        label[3:5, 18:27, 20:34] = 2
        image = 5.0 + 2.0 * (label == 1) + 4.0 * (label == 2) + random.normal(0, 0.5, label.shape)
        cases[f"case_{number:05d}"] = ((image * 10.0**number).astype(np.float32), label)
    return write_store(tmp_path / "hippocampus", cases, "MR", {1: "anterior", 2: "posterior"}, [], "all", "msd")
