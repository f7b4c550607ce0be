"""SMOTE on images: how many, from whom, from which seed, and how much memory."""

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from datasets.images.dataset import ImageOptions
from datasets.images.medmnist import medmnist
from datasets.images.smote import check_memory, oversample, read_distribution
from tests.image_stores import MEDMNIST_COUNTS, write_medmnist

NAMES = ["nv", "mel", "7"]


def write_counts(folder: Path, content: object) -> Path:
    file = folder / "classes_distribution.json"
    file.write_text(json.dumps(content))
    return file


@pytest.fixture
def npz(tmp_path) -> str:
    return str(write_medmnist(tmp_path / "x.npz"))  # 12, 6, 3 training images


# The file


def test_classes_are_written_by_name_or_number_and_the_rest_stays(tmp_path):
    assert read_distribution(write_counts(tmp_path, {"mel": 9}), NAMES, [12, 6, 3]) == [12, 9, 3]
    assert read_distribution(write_counts(tmp_path, {"0": 20, "7": 8}), NAMES, [12, 6, 3]) == [20, 6, 8]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"melanoma": 9}, "class 'melanoma' is unknown: name one of nv, mel, 7"),
        ({"3": 9}, "class '3' is unknown"),
        ({"mel": 5}, "5 images of mel wanted, there are 6"),
        ({"mel": 7.5}, "7.5 images of mel wanted: give a whole number"),
        ({"mel": True}, "whole number"),
        ([9, 9, 9], "no distribution of classes"),
    ],
)
def test_another_distribution_is_refused(tmp_path, content, said):
    with pytest.raises(ValueError, match=said):
        read_distribution(write_counts(tmp_path, content), NAMES, [12, 6, 3])


def test_no_file_and_no_json_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no distribution of classes"):
        read_distribution(tmp_path / "absent.json", NAMES, [1, 1, 1])
    (tmp_path / "text.json").write_text("nv: 3")
    with pytest.raises(ValueError, match="no distribution of classes"):
        read_distribution(tmp_path / "text.json", NAMES, [1, 1, 1])


# What is made


def test_a_made_image_lies_between_two_of_its_class():
    # Two images a class, so every made one is on the line between them: constant, and within the range of its class.
    levels = np.array([10, 50, 100, 200], np.uint8)
    images = np.repeat(levels, 3 * 4 * 4).reshape(4, 4, 4, 3)
    made, labels = oversample(images, np.array([0, 0, 1, 1]), [10, 7], ["a", "b"], 0)
    assert (made.shape, made.dtype) == ((13, 4, 4, 3), np.uint8)
    assert labels.tolist() == [0] * 8 + [1] * 5
    for image, label in zip(made, labels, strict=True):
        assert image.min() == image.max()
        assert (10, 100)[label] <= image.min() <= (50, 200)[label]
    assert len({int(image.min()) for image in made}) > 6


def test_neighbors_are_the_five_nearest():
    # Ten close together, ten far away: a line between the two groups would pass through the middle.
    images = np.concatenate([np.arange(0, 10), np.arange(200, 210), [100, 101]]).astype(np.uint8)
    images = images[:, None, None, None].repeat(8, 1)
    made, _ = oversample(images, np.array([0] * 20 + [1] * 2), [200, 2], ["a", "b"], 0)
    assert not ((made > 10) & (made < 199)).any()


def test_the_seed_alone_decides():
    images = np.random.default_rng(0).integers(0, 256, (12, 4, 4, 3), dtype=np.uint8)
    labels = np.arange(12) % 2
    first, _ = oversample(images, labels, [9, 6], ["a", "b"], 0)
    np.random.seed(3)
    assert np.array_equal(oversample(images, labels, [9, 6], ["a", "b"], 0)[0], first)
    assert not np.array_equal(oversample(images, labels, [9, 6], ["a", "b"], 1)[0], first)


def test_a_class_of_one_image_cannot_grow():
    images = np.zeros((3, 4, 4, 3), np.uint8)
    with pytest.raises(ValueError, match="mel has 1: leave it out"):
        oversample(images, np.array([0, 0, 1]), [2, 4], ["nv", "mel"], 0)
    assert len(oversample(images, np.array([0, 0, 1]), [3, 1], ["nv", "mel"], 0)[0]) == 1


# As a dataset


def test_training_has_the_wanted_counts_and_val_and_test_their_own(npz, tmp_path):
    file = str(write_counts(tmp_path, {"class 1": 12, "2": 10}))
    plain = medmnist(npz, "train")
    train = medmnist(npz, "train", ImageOptions(smote=file, cache_mb=0))
    assert train.class_counts == [12, 12, 10] and len(train) == 34
    assert train.cases[:21] == plain.cases
    assert train.cases[21:] == [f"smote_{number:05d}" for number in range(13)]
    assert [int(train[index]["target"]) for index in range(21, 34)] == [1] * 6 + [2] * 7
    assert all(torch.equal(train[index]["image"], plain[index]["image"]) for index in range(21))
    for split in ("val", "test"):
        assert medmnist(npz, split, ImageOptions(smote=file)).class_counts == list(MEDMNIST_COUNTS[split])


def test_made_images_belong_to_no_patient(npz, tmp_path):
    plain, train = (
        medmnist(npz, "train"),
        medmnist(npz, "train", ImageOptions(smote=str(write_counts(tmp_path, {"2": 10})))),
    )
    assert train.patients == plain.patients
    assert train.split_sha256 == plain.split_sha256
    assert {record.patient for record in train.records[21:]} == {"synthetic"}


def test_the_run_seed_decides(npz, tmp_path):
    file = str(write_counts(tmp_path, {"2": 10}))

    def made(seed):
        return torch.stack(
            [medmnist(npz, "train", ImageOptions(smote=file, seed=seed))[index]["image"] for index in range(21, 28)]
        )

    assert torch.equal(made(0), made(0)) and not torch.equal(made(0), made(1))


# Memory


def test_too_much_memory_is_refused_before_any_work(npz, tmp_path, monkeypatch):
    file = str(write_counts(tmp_path, {"0": 10_000_000}))
    monkeypatch.setattr("datasets.images.dataset.oversample", lambda *_: pytest.fail("started"))
    # 28 * 28 * 3 = 2352 values of 4 bytes, four times for 10^7 images, and all 10000009 images as bytes twice
    needed = round(2352 * (16 * 10_000_000 + 2 * 10_000_009) / 2**20)
    with pytest.raises(ValueError, match=f"needs about {needed} MB, smote_mb allows 4096: lower image_size"):
        medmnist(npz, "train", ImageOptions(smote=file))


def test_what_is_not_enlarged_costs_its_bytes_only():
    check_memory([1000, 10], [1000, 10], 2**20, 2020)  # 2 * 1010 MB
    with pytest.raises(ValueError, match="about 2020 MB"):
        check_memory([1000, 10], [1000, 10], 2**20, 2019)


@pytest.mark.parametrize("counts", [(100, 1500, 1500), (800, 900, 0)])
def test_the_estimate_bounds_what_is_used(counts):
    present, wanted, other = counts
    labels = np.repeat([0, 1], [present, other])
    images = np.random.default_rng(0).integers(0, 256, (len(labels), 32, 32, 3), dtype=np.uint8)
    import imblearn.over_sampling  # noqa: F401  its modules are no part of the estimate

    tracemalloc.start()
    try:
        oversample(images, labels, [wanted, other], "ab", 0)
        used = (images.nbytes + tracemalloc.get_traced_memory()[1]) / 2**20
    finally:
        tracemalloc.stop()
    estimate = 32 * 32 * 3 * (16 * wanted + 2 * (wanted + other)) / 2**20
    check_memory([present, other], [wanted, other], 32 * 32 * 3, round(estimate) + 1)
    assert estimate / 2 < used < estimate
