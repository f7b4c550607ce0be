"""Labeled images of every layout: what the network sees, who is in which split, and what is refused."""

import json
import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from datasets import DATASETS
from datasets.batches.pool import room
from datasets.images.dataset import ImageRecord, LabeledImages
from datasets.images.folder import image_folder
from datasets.images.medmnist import medmnist
from datasets.images.transforms import Preparation
from datasets.splits import SPLITS, split_sha256
from tests.image_stores import write_image_folder, write_isic, write_medmnist
from utils.evaluation.kind import IMAGES
from utils.recipe.registry import build

META = torch.device("meta")
EVERY_CHANGE = {"flip": True, "rot90": True, "rotation": 30, "shift": 0.1, "sharpness": 2} | dict.fromkeys(
    ("brightness", "contrast", "saturation", "hue"), 0.2
)
AUGMENT = {"flip": True, "rotation": 30, "brightness": 0.2}


@pytest.fixture(scope="module")
def sections(tmp_path_factory) -> dict[str, dict]:
    """A recipe's data section for each layout."""
    home = tmp_path_factory.mktemp("images")
    return {
        "medmnist": {"file": str(write_medmnist(home / "some.npz"))},
        "image_folder": {"root": str(write_image_folder(home / "folder")), "val_fraction": 0.2},
        "isic": {"root": str(write_isic(home / "isic")), "ratios": [0.6, 0.2, 0.2]},
    }


@pytest.fixture(params=["medmnist", "image_folder", "isic"])
def make(request, sections):
    """Builds a split of one layout as a recipe would; the test is run for each layout."""

    def make_split(split: str = "train", seed: int = 0, **section):
        section = {"name": request.param, "image_size": 32, **sections[request.param], **section}
        return build(DATASETS, section, "data", split=split, seed=seed)

    return make_split


# Every layout


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_sample_has_the_agreed_keys_shapes_and_types(make, split, channels):
    dataset = make(split, in_channels=channels)
    assert dataset.in_channels == channels
    assert dataset.num_classes == len(dataset.class_names) == len(dataset.class_counts)
    for sample in dataset:
        assert list(sample) == ["image", "target", "case", "view"]
        assert (sample["image"].shape, sample["image"].dtype) == ((channels, 32, 32), torch.float32)
        assert (sample["target"].shape, sample["target"].dtype) == ((), torch.int64)
        assert isinstance(sample["case"], str)
    targets = [int(sample["target"]) for sample in dataset]
    assert dataset.class_counts == [targets.count(label) for label in range(dataset.num_classes)]
    assert dataset.cases == [sample["case"] for sample in dataset]
    assert len(set(dataset.cases)) == len(dataset) == len(targets)
    assert dataset.case_indices() == {case: [index] for index, case in enumerate(dataset.cases)}


def test_samples_collate(make):
    batch = next(iter(DataLoader(make(), batch_size=5)))
    assert (batch["image"].shape, batch["target"].shape, len(batch["case"])) == ((5, 3, 32, 32), (5,), 5)


def test_splits_share_no_patient_and_say_so_alike(make):
    parts = {name: make(name) for name in SPLITS}
    patients = {name: parts[name].patients for name in SPLITS}
    assert not set(patients["train"]) & set(patients["val"])
    assert not set(patients["test"]) & (set(patients["train"]) | set(patients["val"]))
    for dataset in parts.values():
        assert {name: dataset.split_patients(name) for name in SPLITS} == patients
        assert dataset.split_sha256 == split_sha256(patients)
        assert {record.patient for record in dataset.records} == set(dataset.patients)


def test_another_seed_keeps_the_split(make):
    assert make(seed=1).split_sha256 == make(seed=2).split_sha256


def images(dataset, epoch: int = 0, workers: int = 0) -> torch.Tensor:
    dataset.epoch = epoch
    return torch.cat([batch["image"] for batch in DataLoader(dataset, batch_size=4, num_workers=workers)])


def test_a_sample_depends_on_seed_epoch_and_index_alone(make):
    dataset = make(augment=AUGMENT, seed=3)
    first = images(dataset)
    torch.manual_seed(1)
    np.random.seed(1)
    assert torch.equal(images(dataset, workers=2), first)
    assert torch.equal(torch.stack([dataset[index]["image"] for index in reversed(range(len(dataset)))]).flip(0), first)
    assert torch.equal(images(make(augment=AUGMENT, seed=3, cache_mb=0)), first)
    assert not torch.equal(images(dataset, epoch=1), first)
    assert not torch.equal(images(make(augment=AUGMENT, seed=4)), first)


def test_a_batch_is_its_samples_whatever_is_kept_in_memory(make):
    for augment in ({}, AUGMENT):
        for dataset in (make(augment=augment, seed=3), make(augment=augment, seed=3, cache_mb=0)):
            indices = [2, 0, 1 + len(dataset), 1]
            batch, samples = dataset.batch(indices), [dataset[index] for index in indices]
            assert list(batch) == list(samples[0])
            assert torch.equal(batch["image"], torch.stack([sample["image"] for sample in samples]))
            assert torch.equal(batch["target"], torch.stack([sample["target"] for sample in samples]))
            assert batch["case"] == [sample["case"] for sample in samples]


def test_images_of_one_view_are_equal_and_others_are_not(make):
    dataset, seen = make(augment={"flip": True, "rot90": True}), {}
    for epoch in range(6):
        dataset.epoch = epoch
        batch = dataset.batch([0, 1, len(dataset), 2 * len(dataset)])
        for view, image in zip(batch["view"], batch["image"], strict=True):
            assert torch.equal(seen.setdefault(view, image), image)
    assert {view // 8 for view in seen} == {0, 1}
    assert 8 < len(seen) == len({image.numpy().tobytes() for image in seen.values()})


@pytest.mark.parametrize("change", [{"rotation": 5}, {"brightness": 0.1}, {"blur": [0.1, 2]}])
def test_an_image_that_never_comes_again_has_no_view(make, change):
    assert "view" not in make(augment={"flip": True, **change})[0]


def test_what_is_gathered_is_in_bytes(make):
    image = make(augment=AUGMENT).gather([0, 1, 2])["image"]
    assert (image.dtype, image.shape) == (torch.uint8, (3, 3, 32, 32))


def test_a_device_that_holds_the_split_makes_batches_without_being_asked_for_a_value(make):
    for cache_mb in (0, 64):
        dataset = make(augment={**EVERY_CHANGE, "scale": [0.8, 1.2], "blur": [0.1, 2]}, cache_mb=cache_mb, device_gb=1)
        assert dataset.hold(META) and dataset.hold(META)
        batch = dataset.batch([0, 1, len(dataset)])  # on the meta device a tensor has no values, and asking raises
        assert batch["image"].device.type == batch["target"].device.type == "meta"
        assert (batch["image"].shape, batch["image"].dtype) == ((3, 3, 32, 32), torch.float32)
        assert batch["case"] == [dataset.cases[0], dataset.cases[1], dataset.cases[0]]


def test_a_split_stays_where_it_is_if_the_device_has_no_room(make, monkeypatch):
    for cache_mb in (0, 64):
        for device_gb in (0, 1e-7):
            dataset = make(cache_mb=cache_mb, device_gb=device_gb)
            assert not dataset.hold(META)
            assert dataset.batch([0])["image"].device.type == "cpu"
            assert dataset.hold(torch.device("cpu")) == bool(cache_mb)
    size = len(dataset) * 3 * 32**2
    for spare, fits in ((0, True), (-2, False)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=2 * size + spare: (free, 2**40))
        assert (size <= room(torch.device("cuda", 0), None)) == fits


def test_what_is_read_once_is_held_nowhere(make, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (2**40, 2**40))
    assert make().hold(META)
    assert not make(**IMAGES.uncached).hold(META)
    assert not make(**IMAGES.uncached).hold(torch.device("cpu"))


def test_a_device_that_runs_out_of_memory_leaves_the_split_where_it_is(make, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError

    dataset = make(device_gb=1)
    image = dataset[1]["image"]
    monkeypatch.setattr("datasets.batches.pool.Pool.to", full)
    assert not dataset.hold(META)
    assert torch.equal(dataset[1]["image"], image)


def test_a_repeated_image_is_augmented_otherwise(make):
    dataset = make(augment=AUGMENT)
    first, second = dataset[1], dataset[1 + len(dataset)]
    assert first["case"] == second["case"]
    assert not torch.equal(first["image"], second["image"])


def test_the_epoch_reaches_workers_that_stay(make):
    dataset = make(augment=AUGMENT)
    loader = DataLoader(dataset, batch_size=4, num_workers=1, persistent_workers=True)
    seen = []
    for epoch in (0, 1):
        dataset.epoch = epoch
        seen.append(torch.cat([batch["image"] for batch in loader]))
    assert torch.equal(seen[1], images(dataset, epoch=1))
    assert not torch.equal(*seen)


@pytest.mark.parametrize("split", ["val", "test"])
def test_val_and_test_are_never_augmented_or_weighted(make, split):
    dataset, plain = make(split, augment=AUGMENT, balance="sampler"), make(split)
    assert torch.equal(images(dataset, epoch=3), images(plain))
    assert dataset.sampling_weights is None
    assert dataset.cases == plain.cases


def test_the_sampler_draws_every_class_equally_often(make):
    dataset = make(balance="sampler")
    assert make().sampling_weights is None
    assert len(dataset.sampling_weights) == len(dataset)
    per_class = [0.0] * dataset.num_classes
    for record, weight in zip(dataset.records, dataset.sampling_weights.tolist(), strict=True):
        assert weight == pytest.approx(1 / dataset.class_counts[record.label])
        per_class[record.label] += weight
    assert per_class == pytest.approx([1.0] * dataset.num_classes)


def test_the_preprocessing_prepares_a_new_image_alike(make):
    dataset = make("val", normalization="half")
    content = json.loads(json.dumps(dataset.preprocessing))
    assert content.pop("kind") == "image"
    assert content.pop("class_names") == dataset.class_names
    assert content == {"image_size": 32, "in_channels": 3, "mean": [0.5] * 3, "std": [0.5] * 3}
    preparation = Preparation(**content)
    stored = dataset._read(dataset.records[0])
    assert torch.equal(preparation.normalize(preparation.resize(stored)), dataset[0]["image"])


def test_a_dataset_can_be_sent_to_another_process(make):
    dataset = make(cache_mb=0)
    dataset[0]
    assert torch.equal(pickle.loads(pickle.dumps(dataset))[1]["image"], dataset[1]["image"])


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"image_sizes": 32}, "has no argument 'image_sizes'; did you mean 'image_size'"),
        ({"options": {"image_size": 32}}, "has no argument 'options'"),
        ({"augment": {"flop": True}}, "flop"),
        ({"augment": {"rotation": 300}}, "augment.rotation 300"),
        ({"normalization": "imagenett"}, "imagenett"),
        ({"in_channels": 2}, "in_channels"),
        ({"balance": "weights"}, "balance"),
        ({"device_gb": -1}, "device_gb -1 is negative"),
        ({"image_size": 2}, "image_size 2"),
        ({"balance": "sampler", "smote": "counts.json"}, "choose one"),
    ],
)
def test_a_wrong_value_is_refused_in_one_line(make, section, said):
    with pytest.raises(ValueError, match=said) as caught:
        make(**section)
    assert "\n" not in str(caught.value)


def test_a_patient_in_two_splits_is_refused():
    records = [ImageRecord("a", "anna", 0), ImageRecord("b", "bert", 1)]
    patients = {"train": ["anna", "bert"], "val": ["carl"], "test": ["bert"]}
    with pytest.raises(ValueError, match="patient bert is in train and test"):
        LabeledImages(records, lambda record: np.zeros((8, 8), np.uint8), ["x", "y"], "train", patients)


def test_a_split_without_images_is_refused(tmp_path):
    file = write_medmnist(tmp_path / "x.npz", {"train": (2, 2), "val": (1, 1), "test": (1, 1)})
    with pytest.raises(ValueError, match="split 'valid' is unknown"):
        medmnist(str(file), "valid")
    root = write_image_folder(tmp_path / "folder")
    for path in [*(root / "test").rglob("*.*")]:
        path.unlink()
    with pytest.raises(ValueError, match="the test split has no images"):
        image_folder(str(root), "test")
