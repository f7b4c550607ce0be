"""Slices as samples: what is refused, in one line with the remedy."""

import numpy as np
import pytest

from datasets.slices.dataset import SliceDataset
from tests.conftest import store_of, write_store


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "training"}, "split 'training' is unknown: choose from train, val, test"),
        ({"task": "kidney"}, "task 'kidney' is unknown: choose from tumor, organ, all"),
        ({"crop": 100}, "crop 100 is not a multiple of 32: use 128"),
        ({"crop": 0}, "crop 0"),
        ({"crop_mode": "random"}, "crop_mode 'random' is unknown"),
        ({"crop": None, "crop_mode": "foreground"}, "needs a crop"),
        ({"augment": ["flip", "elastic"]}, "augment 'elastic' is unknown"),
        ({"thin_background": 3.0}, "thin_background 3.0"),
        ({"window": [300, -200]}, "window"),
        ({"window": [1, 2, 3]}, "window"),
    ],
)
def test_a_wrong_argument_is_named_with_the_remedy(slice_store, arguments, message):
    with pytest.raises(ValueError, match=message.replace("[", r"\[")):
        SliceDataset(**({"root": slice_store, "split": "train"} | arguments))


def test_a_missing_folder_says_how_to_make_one(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere.*SliceMaker\.py"):
        SliceDataset(tmp_path / "nowhere", "train")


def test_a_task_the_labels_cannot_serve_is_refused(mr_store, tmp_path):
    with pytest.raises(ValueError, match=r"task tumor: msd has no tumor label.*use task organ or all"):
        SliceDataset(mr_store, "train", task="tumor")
    label = np.ones((1, 32, 32), dtype=np.uint8)
    root = store_of(tmp_path / "colon", np.zeros(label.shape, np.int16), label, {1: "cancer"}, [1], dataset="colon")
    with pytest.raises(ValueError, match=r"task organ: colon labels tumors only.*use task tumor"):
        SliceDataset(root, "train", task="organ")


def test_a_window_in_hu_is_refused_for_mr(mr_store):
    with pytest.raises(ValueError, match="slices are MR"):
        SliceDataset(mr_store, "train", window=(-200, 300))


def test_an_empty_split_is_refused(tmp_path):
    image, label = np.zeros((1, 32, 32), np.int16), np.zeros((1, 32, 32), np.uint8)
    split = {"train": ["a"], "val": [], "test": []}
    root = write_store(tmp_path / "s", {"a": (image, label)}, "CT", {1: "kidney"}, [], "organ", "kits", split)
    with pytest.raises(ValueError, match="no val slices"):
        SliceDataset(root, "val")
    with pytest.raises(ValueError, match="thin_background is 0"):
        SliceDataset(root, "train", thin_background=0.0)


def test_a_patient_in_two_splits_is_refused(slice_store):
    index = slice_store / "index.csv"
    index.write_text(index.read_text().replace("case_00004,case_00004", "case_00004,case_00000"))
    with pytest.raises(ValueError, match="patient case_00000 is in train and test"):
        SliceDataset(slice_store, "train")


def test_a_label_without_a_name_is_refused(tmp_path):
    label = np.full((1, 32, 32), 9, dtype=np.uint8)
    root = store_of(tmp_path, np.zeros(label.shape, np.int16), label)
    with pytest.raises(ValueError, match=r"holds label 9, dataset.json knows 1 kidney, 2 tumor"):
        SliceDataset(root, "train")
