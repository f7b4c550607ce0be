"""Slices as samples: what the network sees, and that nothing leaks or gets lost on the way."""

import csv
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, default_collate

from datasets import DATASETS
from datasets.slices.augmentation import AUGMENTATIONS
from datasets.slices.dataset import SliceDataset
from datasets.slices.transforms import normalize, unpad
from tests.conftest import SHA256, SPLIT, store_of, stored

ALL_SPLITS = ("train", "val", "test")


# Samples


@pytest.mark.parametrize("split", ALL_SPLITS)
@pytest.mark.parametrize("store", ["slice_store", "mr_store"])
def test_a_sample_has_the_agreed_keys_shapes_and_types(store, split, request):
    dataset = DATASETS["slices"](request.getfixturevalue(store), split, crop=64)
    for sample in dataset:
        assert list(sample) == ["image", "target", "case", "slice", "size"]
        assert sample["image"].shape == sample["target"].shape == (1, 64, 64)
        assert (sample["image"].dtype, sample["target"].dtype) == (torch.float32, torch.int64)
        assert type(sample["image"]) is type(sample["target"]) is torch.Tensor  # no MetaTensor
        assert sample["case"] in SPLIT[split]
        assert sample["target"].max() < dataset.num_classes
        assert sample["size"] == stored(dataset.root, sample["case"], sample["slice"])[0].shape
    assert len(dataset) == 6 * len(SPLIT[split])


def test_samples_collate(slice_store):
    batch = next(iter(DataLoader(SliceDataset(slice_store, "train", crop=32), batch_size=4)))
    assert batch["image"].shape == batch["target"].shape == (4, 1, 32, 32)
    assert batch["case"] == ["case_00000"] * 4
    assert batch["slice"].tolist() == [0, 1, 2, 3]


def test_the_window_is_scaled_to_minus_one_to_one_and_clipped(tmp_path):
    image = np.array([-1000, -200, 50, 300, 301, 3000], dtype=np.int16)[None, None].repeat(32, 1)
    root = store_of(tmp_path, image, np.zeros(image.shape, dtype=np.uint8))
    sample = SliceDataset(root, "val", crop=32)[0]
    assert unpad(sample["image"], sample["size"])[0, 0].tolist() == [-1, -1, 0, 1, 1, 1]
    # another window: (50 - -60) / 200 * 2 - 1 = 0.1
    sample = SliceDataset(root, "val", crop=32, window=[-60, 140])[0]
    assert unpad(sample["image"], sample["size"])[0, 0].tolist() == [-1, -1, pytest.approx(0.1), 1, 1, 1]
    assert sample["image"].min() == sample["image"][0, 0, 0] == -1  # padding is air


def test_mr_is_z_scored_with_the_statistics_of_the_whole_case(mr_store):
    dataset = SliceDataset(mr_store, "test", crop=32)
    for case, indices in dataset.case_indices().items():
        image = torch.cat([unpad(dataset[i]["image"], dataset[i]["size"]) for i in indices])
        assert image.mean().item() == pytest.approx(0, abs=1e-4), case
        assert image.std(unbiased=False).item() == pytest.approx(1, abs=1e-4), case


def test_ct_can_be_z_scored_and_a_constant_case_stays_finite(slice_store):
    assert SliceDataset(slice_store, "val", crop=32, window=None).preprocessing["window"] is None
    assert normalize(np.full((2, 2), 7, np.int16), None, 7.0, 0.0).tolist() == [[0, 0], [0, 0]]


# Tasks


@pytest.mark.parametrize(
    ("task", "names", "expected"),
    [
        ("tumor", ["tumor"], [0, 0, 1, 0]),
        ("organ", ["kidney"], [0, 1, 1, 1]),
        ("all", ["kidney", "tumor", "cyst"], [0, 1, 2, 3]),
    ],
)
def test_a_task_maps_labels_to_classes(tmp_path, task, names, expected):
    label = np.arange(4, dtype=np.uint8)[None, None].repeat(32, 1)
    root = store_of(tmp_path, np.zeros(label.shape, np.int16), label, {1: "kidney", 2: "tumor", 3: "cyst"})
    dataset = SliceDataset(root, "val", task=task, crop=32)
    assert dataset.class_names == names
    assert dataset.num_classes == len(names) + 1
    sample = dataset[0]
    assert unpad(sample["target"], sample["size"])[0, 0].tolist() == expected


def test_all_numbers_the_label_values_consecutively(tmp_path):
    label = np.array([0, 2, 5, 7], dtype=np.uint8)[None, None].repeat(32, 1)
    names = {7: "spleen", 2: "liver", 5: "aorta"}
    root = store_of(tmp_path, np.zeros(label.shape, np.int16), label, names, tumor_labels=())
    dataset = SliceDataset(root, "val", task="all", crop=32)
    assert dataset.class_names == ["liver", "aorta", "spleen"]
    assert dataset[0]["target"].unique().tolist() == [0, 1, 2, 3]
    assert SliceDataset(root, "val", task="organ", crop=32).class_names == ["organ"]


def test_the_task_is_the_stores_unless_given(slice_store, mr_store):
    assert SliceDataset(slice_store, "val").task == "tumor"
    assert SliceDataset(mr_store, "val").class_names == ["anterior", "posterior"]


@pytest.mark.parametrize("augment", [("flip", "rot90"), AUGMENTATIONS])
def test_a_sample_depends_on_seed_epoch_and_index_alone(slice_store, augment):
    def images(seed=0, epoch=0, order=range(18)):
        dataset = SliceDataset(slice_store, "train", crop=32, crop_mode="foreground", augment=augment, seed=seed)
        dataset.epoch = epoch
        samples = {index: dataset[index]["image"] for index in order}
        return torch.stack([samples[index] for index in range(18)])

    torch.manual_seed(1)
    np.random.seed(1)
    first = images()
    torch.manual_seed(2)
    np.random.seed(2)
    assert torch.equal(images(order=reversed(range(18))), first)
    assert not torch.equal(images(epoch=1), first)
    assert not torch.equal(images(seed=1), first)


def test_workers_give_the_same_samples_and_see_the_epoch_change(slice_store):
    dataset = SliceDataset(slice_store, "train", crop=32)
    persistent = DataLoader(dataset, batch_size=3, num_workers=2, persistent_workers=True)
    for epoch in (0, 1, 5):
        dataset.epoch = epoch
        here = torch.stack([sample["image"] for sample in dataset])
        assert torch.equal(torch.cat([batch["image"] for batch in persistent]), here)


def test_a_dataset_survives_pickling(slice_store):
    dataset = SliceDataset(slice_store, "train", crop=32, augment=AUGMENTATIONS)
    dataset.epoch = 3
    copy = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(copy[2]["image"], dataset[2]["image"])


def test_thinning_drops_background_slices_in_training_only(slice_store):
    # train: three cases, each with 2 of 6 slices with tumor: 6 with, 12 without; a quarter of 12 is 3
    thinned = SliceDataset(slice_store, "train", crop=64, thin_background=0.25)
    assert len(thinned) == 9
    assert sum(bool(sample["target"].any()) for sample in thinned) == 6
    assert thinned.cases == SPLIT["train"]
    again = SliceDataset(slice_store, "train", crop=64, thin_background=0.25)
    assert [r.file for r in again.records] == [r.file for r in thinned.records]
    choices = {
        tuple(r.file for r in SliceDataset(slice_store, "train", thin_background=0.25, seed=seed).records)
        for seed in range(5)
    }
    assert len(choices) > 1
    assert len(SliceDataset(slice_store, "train", thin_background=0.0)) == 6
    for split in ("val", "test"):
        assert len(SliceDataset(slice_store, split, thin_background=0.0)) == 6 * len(SPLIT[split])
    # for the organ, slices 1 to 4 are foreground
    assert len(SliceDataset(slice_store, "train", task="organ", thin_background=0.0)) == 12


# Validation: whole slices, whole cases


@pytest.mark.parametrize("crop", [None, 32, 384])
def test_val_and_test_keep_the_whole_slice(slice_store, crop):
    for split in ("val", "test"):
        dataset = SliceDataset(slice_store, split, task="all", crop=crop, crop_mode="foreground" if crop else "center")
        dataset.epoch = 4
        for sample in dataset:
            image, label = stored(slice_store, sample["case"], sample["slice"])
            assert all(side % 32 == 0 and side >= (crop or 0) for side in sample["image"].shape[1:])
            assert torch.equal(unpad(sample["target"], sample["size"])[0], torch.from_numpy(label).long())
            assert sample["target"].sum() == label.sum()
            expected = (image.clip(-200, 300) - 50.0) / 250
            np.testing.assert_allclose(unpad(sample["image"], sample["size"])[0], expected, atol=1e-6)


def test_cases_can_be_walked_slice_by_slice(slice_store):
    with (slice_store / "index.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    with (slice_store / "index.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *reversed(rows)])
    dataset = SliceDataset(slice_store, "test", crop=64)
    indices = dataset.case_indices()
    assert list(indices) == dataset.cases == SPLIT["test"]
    for case, members in indices.items():
        assert [dataset[i]["case"] for i in members] == [case] * 6
        assert [dataset[i]["slice"] for i in members] == list(range(6))
        default_collate([dataset[i] for i in members])


# What it says of itself


def test_splits_share_no_patient(slice_store):
    datasets = {split: SliceDataset(slice_store, split) for split in ALL_SPLITS}
    patients = [patient for dataset in datasets.values() for patient in dataset.patients]
    assert sorted(patients) == sorted(set(patients)) == [f"case_{number:05d}" for number in range(6)]
    for split, dataset in datasets.items():
        assert dataset.patients == datasets["train"].split_patients(split) == SPLIT[split]
        assert dataset.split_sha256 == SHA256


def test_preprocessing_is_plain_json_and_the_same_for_all_splits(slice_store):
    dataset = SliceDataset(slice_store, "train", task="all", crop=64)
    expected = {
        "modality": "CT",
        "task": "all",
        "class_names": ["kidney", "tumor"],
        "labels": {"1": "kidney", "2": "tumor"},
        "window": [-200.0, 300.0],
        "pad_value": -1.0,
        "crop": 64,
        "multiple": 32,
        "spacing": None,
        "slice_spacing": None,
        "neighbors": 0,
        "neighbor_mm": None,
        "in_channels": 1,
    }
    assert dataset.preprocessing == json.loads(json.dumps(dataset.preprocessing)) == expected
    assert SliceDataset(slice_store, "test", task="all", crop=64).preprocessing == expected
    assert dataset.in_channels == 1


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_cache_changes_nothing_and_keeps_its_budget(slice_store, split):
    cached = SliceDataset(slice_store, split, crop=64)
    plain = SliceDataset(slice_store, split, crop=64, cache=False)
    for a, b in zip(cached, plain, strict=True):
        assert torch.equal(a["image"], b["image"])
        assert torch.equal(a["target"], b["target"])
    cases = len(cached.cases)
    for file in slice_store.glob("case_*/*.npz"):
        file.unlink()
    assert len(list(cached)) == 6 * cases  # all of it was in memory
    with pytest.raises(FileNotFoundError):
        plain[0]


def test_a_split_over_the_cache_budget_is_read_from_disk(slice_store):
    assert not SliceDataset(slice_store, "train", cache_mb=0).hold(torch.device("cpu"))
    assert SliceDataset(slice_store, "train", cache_mb=1).hold(torch.device("cpu"))


# Imports


def test_the_store_needs_neither_torch_nor_monai():
    code = "import sys, datasets.slices.store; assert not {'torch', 'monai'} & set(sys.modules), 'imported'"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).resolve().parents[1])


def test_slices_need_neither_monai_nor_scipy(slice_store):
    """Importing MONAI takes longer than a first step."""
    code = (
        "import sys; from datasets.slices.dataset import SliceDataset as Slices\n"
        f"dataset = Slices(sys.argv[1], 'train', crop=32, augment={AUGMENTATIONS})\n"
        "dataset.batch(range(18))\n"
        "assert not {'monai', 'scipy'} & set(sys.modules), 'imported'\n"
    )
    root = Path(__file__).resolve().parents[1]
    subprocess.run([sys.executable, "-c", code, slice_store], check=True, cwd=root)
