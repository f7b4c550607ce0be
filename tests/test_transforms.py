"""Crop, padding and augmentation: image and target move together, and padding can be undone."""

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from datasets.slices.crops import foreground_corners, foreground_of
from datasets.slices.dataset import SliceDataset
from datasets.slices.transforms import pad_center, unpad
from tests.conftest import store_of, stored


def marked(tmp_path, rows=40, columns=48):
    """A slice of random pixels where the target is 1 exactly where the image is bright."""
    random = np.random.default_rng(0)
    label = (random.random((1, rows, columns)) < 0.1).astype(np.uint8) * 2
    return store_of(tmp_path, np.where(label == 2, 300, -200).astype(np.int16), label)


@pytest.mark.parametrize("crop", [32, 64])
@pytest.mark.parametrize("crop_mode", ["center", "foreground"])
@pytest.mark.parametrize("augment", [(), ("flip",), ("rot90",), ("flip", "rot90")])
def test_image_and_target_move_together(tmp_path, crop, crop_mode, augment):
    dataset = SliceDataset(marked(tmp_path), "train", crop=crop, crop_mode=crop_mode, augment=augment)
    for epoch in range(12):
        dataset.epoch = epoch
        sample = dataset[0]
        assert torch.equal(sample["image"] > 0, sample["target"] == 1)


def test_affine_moves_image_and_target_together(tmp_path):
    label = np.zeros((1, 64, 64), dtype=np.uint8)
    label[0, 20:40, 12:28] = 2
    root = store_of(tmp_path, np.where(label == 2, 300, -200).astype(np.int16), label)
    dataset = SliceDataset(root, "train", crop=64, augment=("affine",))
    moved = 0
    for epoch in range(20):
        dataset.epoch = epoch
        sample = dataset[0]
        bright, target = sample["image"] > 0, sample["target"] == 1
        overlap = 2 * (bright & target).sum() / (bright.sum() + target.sum())
        assert overlap > 0.93  # bilinear and nearest differ along the edge
        moved += not np.array_equal(target[0] * 2, label[0])
    assert 1 <= moved < 20


def test_affine_makes_no_new_classes(tmp_path):
    label = np.zeros((1, 64, 64), dtype=np.uint8)
    label[0, 20:40, 12:28] = 2
    root = store_of(tmp_path, np.zeros(label.shape, np.int16), label)
    dataset = SliceDataset(root, "train", task="all", crop=64, augment=("affine",))
    for epoch in range(20):
        dataset.epoch = epoch
        assert dataset[0]["target"].unique().tolist() == [0, 2]  # blending 0 and 2 would give 1


def test_intensity_changes_the_image_alone(slice_store):
    plain = SliceDataset(slice_store, "train", crop=64, augment=())
    dataset = SliceDataset(slice_store, "train", crop=64, augment=("intensity",))
    samples = list(zip(plain, dataset, strict=True))
    assert all(torch.equal(a["target"], b["target"]) for a, b in samples)
    assert 1 <= sum(not torch.equal(a["image"], b["image"]) for a, b in samples) < len(samples)


def test_flip_and_rot90_reach_all_eight_orientations_of_the_central_crop(slice_store):
    plain = SliceDataset(slice_store, "train", crop=32, augment=())[2]["image"]
    dataset = SliceDataset(slice_store, "train", crop=32)
    symmetries = [torch.rot90(image, k, (1, 2)) for image in (plain, plain.flip(1)) for k in range(4)]
    seen = set()
    for epoch in range(80):
        dataset.epoch = epoch
        # the crop comes first: whatever the flip, it is the same anatomy
        seen.add(next(i for i, image in enumerate(symmetries) if torch.equal(dataset[2]["image"], image)))
    assert seen == set(range(8))


def test_rot90_alone_reaches_four_orientations(slice_store):
    plain = SliceDataset(slice_store, "train", crop=32, augment=())[2]["image"]
    dataset = SliceDataset(slice_store, "train", crop=32, augment=("rot90",))
    seen = set()
    for epoch in range(40):
        dataset.epoch = epoch
        image = dataset[2]["image"]
        seen.add(next(k for k in range(4) if torch.equal(image, torch.rot90(plain, k, (1, 2)))))
    assert seen == set(range(4))


def test_the_central_crop_is_central(slice_store):
    sample = SliceDataset(slice_store, "train", task="all", crop=32, augment=())[2]
    _, label = stored(slice_store, "case_00000", 2)  # 40x48: 4 rows and 8 columns off each side
    assert torch.equal(sample["target"][0], torch.from_numpy(label[4:36, 8:40]).long())


def random_corners(target, side, count):
    uniform = np.random.default_rng(0).random((count, 3))
    return foreground_corners(np.array([target.shape] * count), side, [foreground_of(target)] * count, uniform)


def test_a_foreground_crop_holds_foreground_and_a_random_one_moves(tmp_path):
    label = np.zeros((2, 200, 160), dtype=np.uint8)
    label[0, 3, 150] = 2
    root = store_of(tmp_path, np.zeros(label.shape, np.int16), label)
    dataset = SliceDataset(root, "train", crop=32, crop_mode="foreground", augment=())
    for epoch in range(20):
        dataset.epoch = epoch
        assert dataset[0]["target"].sum() == 1
    corners = set(map(tuple, random_corners(label[1], 32, 50)))
    assert len(corners) > 40
    assert all(0 <= top <= 168 and 0 <= left <= 128 for top, left in corners)


def test_foreground_is_not_always_in_the_middle_of_its_crop():
    target = np.zeros((200, 200), dtype=np.uint8)
    target[100, 100] = 1
    corners = random_corners(target, 64, 200)
    # the middle lies up to a quarter of the crop from the pixel: corner 100 - 32 +- 16
    assert corners.min() == 52
    assert corners.max() == 84


def test_without_a_crop_training_pads_to_the_square_of_the_largest_slice(slice_store, tmp_path):
    # train holds 40x48 and 44x40: 48 -> 64
    dataset = SliceDataset(slice_store, "train", crop=None)
    assert default_collate(list(dataset))["image"].shape == (18, 1, 64, 64)
    label = np.ones((1, 20, 70), dtype=np.uint8)
    root = store_of(tmp_path / "wide", np.zeros(label.shape, np.int16), label)
    assert SliceDataset(root, "train", crop=None)[0]["image"].shape == (1, 96, 96)  # 70 -> 96


@pytest.mark.parametrize("size", [(35, 51), (40, 48), (64, 64), (1, 63)])
def test_unpad_undoes_padding(size):
    array = np.random.default_rng(0).random(size)
    padded = pad_center(array, (64, 64), -1)
    assert padded.shape == (64, 64)
    assert np.array_equal(unpad(padded, size), array)
    assert torch.equal(
        unpad(torch.from_numpy(padded)[None, None], torch.tensor(size)), torch.from_numpy(array)[None, None]
    )


def test_unpad_refuses_a_slice_that_was_larger():
    with pytest.raises(ValueError, match="smaller"):
        unpad(torch.zeros(1, 32, 32), (40, 32))
