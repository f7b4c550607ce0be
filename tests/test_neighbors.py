"""Slices with their neighbors as channels: which they are, that they are moved and changed alike, what they take."""

import hashlib
import json

import numpy as np
import pytest
import torch

from datasets.batches import moves
from datasets.slices.augmentation import AUGMENTATIONS
from datasets.slices.dataset import SliceDataset
from datasets.slices.neighbors import middle, neighborhoods, offsets_of
from tests.conftest import store_of, stored, write_store


def space(root, slice_mm, slab=None):
    """Say how far the slices of every case are apart."""
    for folder in (path for path in root.iterdir() if path.is_dir()):
        geometry = {"affine": np.diag([slice_mm, 0.8, 0.8, 1]).tolist(), "axes": [0, 1, 2], "shape": [12, 40, 48]}
        if slab:
            geometry["stored"] = {"slab": slab, "shape": [6, 40, 48]}
        (folder / "geometry.json").write_text(json.dumps(geometry))
    return root


@pytest.mark.parametrize(
    ("neighbors", "neighbor_mm", "slice_mm", "expected"),
    [
        (0, None, 1, [0]),
        (1, None, 5, [-1, 0, 1]),
        (2, None, 0.5, [-2, -1, 0, 1, 2]),
        (2, 3.0, 1, [-6, -3, 0, 3, 6]),
        (2, 2.0, 5, [-1, 0, 0, 0, 1]),  # 2 mm lie nearest to the slice itself, 4 mm to the next
        (1, 2.5, 5, [0, 0, 0]),  # halfway
        (1, 1.2, 0.4, [-3, 0, 3]),  # whatever 1.2 / 0.4 is in binary
        (2, 3.75, 2.5, [-3, -1, 0, 1, 3]),
    ],
)
def test_neighbors_are_the_slices_nearest_to_their_mm(neighbors, neighbor_mm, slice_mm, expected):
    assert offsets_of(neighbors, neighbor_mm, slice_mm) == expected


@pytest.mark.parametrize("offsets", [[0], [-1, 0, 1], [-4, -2, 0, 2, 4], [-9, 0, 9], [0, 0, 0]])
def test_neighborhoods_take_each_slice_once_and_hold_few(offsets):
    taken = []

    def slices():
        for number in range(7):
            taken.append(number)
            yield number

    for place, channels in enumerate(neighborhoods(slices(), 7, offsets)):
        assert channels == [min(max(place + offset, 0), 6) for offset in offsets]
        assert len(taken) == min(7, place + offsets[-1] + 1)
    assert taken == list(range(7))


@pytest.mark.parametrize("options", [{}, {"neighbor_mm": 3.0}, {"thin_background": 0.0}, {"labeled": 0.4}])
@pytest.mark.parametrize("neighbors", [1, 2])
@pytest.mark.parametrize("cache", [True, False])
def test_the_channels_are_the_slices_around_in_the_whole_case(slice_store, neighbors, options, cache):
    space(slice_store, 0.75, slab=2)  # 3 mm are two stored slices
    options = {"crop": 32, "augment": (), "cache": cache} | options
    dataset = SliceDataset(slice_store, "train", neighbors=neighbors, **options)
    alone = SliceDataset(slice_store, "train", **options)
    step = 2 if "neighbor_mm" in options else 1
    assert dataset.in_channels == dataset.preprocessing["in_channels"] == 1 + 2 * neighbors
    assert (len(dataset) == len(alone) < 18) == ("thin_background" in options)
    batch, single = dataset.batch(range(len(dataset))), alone.batch(range(len(dataset)))
    assert torch.equal(batch["target"], single["target"])
    for place, record in enumerate(dataset.records):
        for channel, offset in enumerate(range(-neighbors, neighbors + 1)):
            image, _ = stored(dataset.root, record.case, min(max(record.slice + step * offset, 0), 5))
            top, left = (length // 2 - 16 for length in image.shape)
            shown = torch.from_numpy(image[top : top + 32, left : left + 32]).float()
            assert torch.equal(batch["image"][place, channel], ((shown - 50) / 250).clamp(-1, 1))
    assert torch.equal(dataset[3]["image"], batch["image"][3])


def test_without_neighbors_a_batch_is_what_it_always_was(slice_store):
    """Bit by bit, as hashed before there were neighbors: crop, padding, flips, turns, window, target."""
    batch = SliceDataset(slice_store, "train", crop=64, task="all", seed=3).batch(range(18))
    digests = [hashlib.sha256(batch[key].numpy().tobytes()).hexdigest()[:12] for key in ("image", "target")]
    assert digests == ["85656e581c52", "5dda1aca13fc"]


@pytest.mark.parametrize("crop", [32, 64])
def test_all_channels_and_the_target_are_moved_alike(slice_store, crop):
    options = {"crop": crop, "crop_mode": "foreground", "augment": ("flip", "rot90", "affine"), "seed": 1}
    dataset = SliceDataset(slice_store, "train", neighbors=2, **options)
    alone = SliceDataset(slice_store, "train", **options)
    batch, single = dataset.batch(range(18)), alone.batch(range(18))
    assert torch.equal(batch["target"], single["target"])
    assert torch.equal(middle(batch["image"], 1), single["image"])


def test_all_channels_change_alike_but_for_their_noise(tmp_path):
    plane = np.random.default_rng(0).integers(-150, 250, (40, 48)).astype(np.int16)
    image = np.repeat(plane[None], 30, axis=0)
    root = store_of(tmp_path / "s", image, (image > 100).astype(np.uint8), task="organ")
    dataset = SliceDataset(root, "train", crop=32, neighbors=1, augment=AUGMENTATIONS)
    raw = dataset.gather(range(30))
    assert {"affine", "contrast", "linear", "noise"} <= raw.keys()
    noisy = raw["noise"][:, 0].long().tolist()
    images = dataset.finish(raw)["image"]
    for number, sample in enumerate(images):
        alike = [torch.equal(sample[0], other) for other in sample[1:]]
        assert alike == [number not in noisy] * 2
    assert 0 < len(noisy) < 30
    spread = (images[noisy[0], 0] - images[noisy[0], 2]).std()
    assert spread == pytest.approx(2**0.5 * float(raw["noise"][0, 1]), rel=0.1)


def test_every_pool_gives_the_same_batches_and_no_value_is_asked_for(slice_store, monkeypatch):
    options = {"crop": 64, "augment": AUGMENTATIONS, "neighbors": 2, "labeled": 0.5}
    expected = SliceDataset(slice_store, "train", **options).batch(range(18))
    read = SliceDataset(slice_store, "train", cache=False, **options).batch(range(18))
    dataset = SliceDataset(slice_store, "train", **options)
    with monkeypatch.context() as patch:
        patch.setattr(moves, "_copied", moves._looked_up)
        looked_up = dataset.batch(range(18))
    for key in ("image", "target"):
        assert torch.equal(read[key], expected[key])
        assert torch.equal(looked_up[key], expected[key])
    dataset._stored.pool = dataset._stored.pool.to(torch.device("meta"))
    assert dataset.batch(range(18))["image"].shape == (18, 5, 64, 64)


def test_memory_is_counted_for_the_slices_that_are_held_each_once(slice_store):
    slice_bytes = 40 * 48 * 3  # int16 and uint8
    sizes = {"case_00000": 1, "case_00001": 44 * 40 / (40 * 48), "case_00002": 1}
    for options, held in (({}, 2), ({"neighbors": 1}, 4), ({"neighbors": 2}, 6)):  # a tumor is in slices 2 and 3 of 6
        dataset = SliceDataset(slice_store, "train", thin_background=0.0, crop=32, **options)
        assert dataset._stored.nbytes == round(held * slice_bytes * sum(sizes.values()))
        assert sum(part.nbytes for part in dataset._stored.pool.parts.values()) == dataset._stored.nbytes
        limit = dataset._stored.nbytes / 1e9
        assert not SliceDataset(slice_store, "train", thin_background=0.0, device_gb=limit * 0.99, **options).hold(
            torch.device("meta")
        )


def test_mr_is_z_scored_with_the_case_s_statistics_in_every_channel(mr_store):
    dataset = SliceDataset(mr_store, "val", crop=64, neighbors=1)
    record = dataset.records[0]
    image = dataset[0]["image"]
    assert torch.equal(image[0], image[1])  # the lowest slice again
    above, _ = stored(dataset.root, record.case, 1)
    shown = image[2, 14:49, 6:57]
    assert torch.allclose(shown, torch.from_numpy((above - record.mean) / record.std).float(), atol=1e-5)
    assert (image[:, :14] == 0).all()


def test_digests_and_views_are_those_of_the_slices(slice_store):
    alone, dataset = (SliceDataset(slice_store, "train", crop=32, neighbors=number) for number in (0, 1))
    assert dataset.digests == alone.digests
    assert dataset.gather([0, 7])["view"] == alone.gather([0, 7])["view"]
    assert dataset.views == alone.views == 8


def test_the_middle_channels_are_those_of_fewer_neighbors(slice_store):
    many = SliceDataset(slice_store, "val", neighbors=2).batch(range(6))["image"]
    for neighbors in (0, 1, 2):
        fewer = SliceDataset(slice_store, "val", neighbors=neighbors).batch(range(6))["image"]
        assert torch.equal(middle(many, 1 + 2 * neighbors), fewer)
    assert middle(many, None) is many


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"neighbors": 3}, "neighbors 3: give 0, 1 or 2"),
        ({"neighbors": -1}, "neighbors -1: give"),
        ({"neighbors": 1, "neighbor_mm": 0.0}, "neighbor_mm 0: give mm above 0"),
        ({"neighbors": 1, "neighbor_mm": float("nan")}, "neighbor_mm nan: give mm above 0"),
        ({"neighbors": 1, "neighbor_mm": 3.0}, r"case_00003/geometry.json: does not say .*set neighbor_mm to null"),
    ],
)
def test_bad_neighbors_are_refused_in_one_line(slice_store, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        SliceDataset(slice_store, "val", **options)
    assert "\n" not in str(caught.value)


def test_slices_of_another_size_are_refused_whether_kept_or_not(tmp_path):
    image = np.zeros((3, 40, 48), np.int16)
    root = write_store(tmp_path / "s", {f"case_{n:05d}": (image, image.astype(np.uint8)) for n in range(6)}, "CT",
                       {1: "kidney", 2: "tumor"}, [2], "tumor", "kits")  # fmt: skip
    np.savez(root / "case_00003" / "0001.npz", image=image[0, :32], label=image[0, :32].astype(np.uint8))
    with pytest.raises(ValueError, match="is 32 x 48 pixels, the first slice of case_00003 40 x 48"):
        SliceDataset(root, "val", neighbors=1, cache=False)[0]
