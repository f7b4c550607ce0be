"""Batches of slices: MONAI's transforms give the same for the same draws, and nothing else about a run changes them."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from datasets.batches import moves
from datasets.batches.draws import KEY_BITS, gaussian
from datasets.batches.moves import VIEWS
from datasets.slices.augmentation import AUGMENTATIONS, DRAWN, Augment
from datasets.slices.dataset import SliceDataset
from scripts.benchmarks.benchmark import main
from scripts.benchmarks.pipeline import MonaiAugment, prepared
from tests.conftest import store_of, stored, write_store

CPU = torch.device("cpu")
SIZES = [(70, 90), (100, 64), (40, 48)]  # larger than the crops below, larger in one dimension, smaller


def smooth(shape, dtype):
    """A volume of CT, where the format is of whole numbers, or MR, and its target."""
    scale = 300 if dtype is np.int16 else 2
    coarse = torch.from_numpy(np.random.default_rng(0).normal(0, scale, (1, shape[0], 9, 9)))
    image = torch.nn.functional.interpolate(coarse, size=shape[1:], mode="bicubic")[0].numpy()
    return image.astype(dtype), ((image > 0.5 * scale) + (image > scale)).astype(np.uint8)


def store(tmp_path, dtype=np.int16):
    """Three train cases of different sizes, with 4 slices each."""
    cases = {f"case_{n:05d}": smooth((4, *SIZES[n % 3]), dtype) for n in range(6)}
    modality = "CT" if dtype is np.int16 else "MR"
    return write_store(tmp_path / "s", cases, modality, {1: "kidney", 2: "tumor"}, [2], "all", "kits")


class Scripted(np.random.RandomState):
    """Draws what it is given: whether a change is made, then its amounts in turn."""

    def __init__(self, made=0.0, amounts=(), count=0, noise=None):
        super().__init__()
        self.made, self.amounts, self.count, self.noise, self.calls = made, amounts, count, noise, 0

    def rand(self):
        return self.made

    def randint(self, _):
        return self.count

    def uniform(self, low=0.0, high=1.0):
        self.calls += 1
        return float(low + (high - low) * self.amounts[(self.calls - 1) % len(self.amounts)])

    def normal(self, mean, deviation, size):
        return mean + deviation * self.noise.reshape(size)


def scripts(uniform, side):
    """For a transform of MONAI, the draws of one sample."""
    turns = int(4 * uniform["turns"])
    key = torch.tensor([int(uniform["key"] * 2**KEY_BITS)])
    warp = [uniform[name] for name in ("angle", "shift_rows", "shift_columns", "scale_rows", "scale_columns")]
    by_name = {
        "RandRotate90d": Scripted(0.0 if turns else 0.99, count=turns - 1),
        "RandAffined": Scripted(uniform["affine"], warp),
        "RandAdjustContrastd": Scripted(uniform["contrast"], [uniform["gamma"]]),
        "RandScaleIntensityd": Scripted(uniform["scale"], [uniform["factor"]]),
        "RandShiftIntensityd": Scripted(uniform["shift"], [uniform["offset"]]),
        "RandGaussianNoised": Scripted(
            uniform["noise"], [uniform["deviation"]], noise=gaussian(key, side * side).numpy()
        ),
    }

    def state(transform):
        name = type(transform).__name__
        if name == "RandFlipd":
            return Scripted(uniform["flip_columns" if transform.flipper.spatial_axis else "flip_rows"])
        return by_name[name]

    return state


@pytest.mark.parametrize(("dtype", "side"), [(np.int16, 64), (np.int16, 96), (np.float16, 64), (np.float32, 96)])
@pytest.mark.parametrize("augment", [*((name,) for name in AUGMENTATIONS), AUGMENTATIONS])
def test_a_batch_is_what_monais_transforms_make_of_its_samples(tmp_path, dtype, side, augment):
    dataset = SliceDataset(store(tmp_path, dtype), "train", crop=side, augment=augment)
    monai = MonaiAugment(augment, side)
    differing, changed = [], 0
    for epoch in range(3):
        dataset.epoch = epoch
        batch = dataset.batch(range(len(dataset)))
        for index, record in enumerate(dataset.records):
            image, target = stored(dataset.root, record.case, record.slice)
            top, left = (max(length - side, 0) // 2 for length in image.shape)
            cropped = [array[top : top + side, left : left + side] for array in (image, target)]
            plain = prepared(*cropped, dataset.window, record, side)
            uniform = dict(zip(DRAWN, dataset._draws([index])[0], strict=True))
            image, target = monai(*plain, scripts(uniform, side))
            # a pixel on the edge of a mirrored image, or halfway between two, may be rounded to the other side
            differing.append((batch["image"][index] - image).abs() > 1e-4)
            differing.append(batch["target"][index] != target)
            changed += not (torch.equal(image, plain[0]) and torch.equal(target, plain[1]))
    assert changed >= 5
    assert torch.stack(differing).float().mean() < (2e-5 if "affine" in augment else 1e-9)


def test_the_draws_have_their_probabilities_and_reach_their_ranges():
    uniform = dict(zip(DRAWN, np.random.default_rng(0).random((len(DRAWN), 20_000)), strict=True))
    augment = Augment(AUGMENTATIONS, 64)
    assert augment.flips(uniform).mean(0) == pytest.approx([0.5, 0.5], abs=0.02)
    assert np.bincount(augment.turns(uniform)) / 20_000 == pytest.approx([0.25] * 4, abs=0.02)
    tables = augment.changes(uniform)
    shares = {name: len(table) / 20_000 for name, table in tables.items()}
    assert shares == pytest.approx({"affine": 0.3, "contrast": 0.15, "linear": 1 - 0.85**2, "noise": 0.15}, abs=0.02)
    a, b, c, d, e, f = tables["affine"].T[1:]
    linear = np.stack((a, b, d, e), axis=1).reshape(-1, 2, 2)
    shift = np.linalg.inv(linear) @ np.stack((c, f), axis=1)[..., None]  # before rotation and scale, in scaled pixels
    angle, scales = np.arctan2(d, a), np.linalg.norm(linear, axis=1)
    for values, low, high in (
        (np.rad2deg(angle), -15, 15),
        (scales, 0.9, 1.1),
        (shift[..., 0] * scales, -4, 4),
        (tables["contrast"][:, 1], 0.7, 1.5),
        (tables["linear"][:, 1], 0.9, 1.1),
        (tables["linear"][:, 2], -0.1, 0.1),
        (tables["noise"][:, 1], 0, 0.05),
    ):
        assert low - 1e-9 <= values.min() < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < values.max() <= high + 1e-9
    assert len(np.unique(tables["noise"][:, 2])) == len(tables["noise"])
    none = Augment((), 64)
    assert not none.flips(uniform).any()
    assert not none.turns(uniform).any()
    assert none.changes(uniform) == {}


def everything(dataset, size=8):
    order = list(range(len(dataset)))
    batches = [dataset.batch(order[start : start + size]) for start in range(0, len(order), size)]
    return [torch.cat([batch[key] for batch in batches]) for key in ("image", "target")]


@pytest.mark.parametrize("crop_mode", ["center", "foreground"])
@pytest.mark.parametrize("dtype", [np.int16, np.float16])
def test_a_sample_is_the_same_in_any_batch_from_any_pool(tmp_path, dtype, crop_mode):
    root = store(tmp_path, dtype)
    options = {"crop": 64, "crop_mode": crop_mode, "augment": AUGMENTATIONS, "seed": 3}
    dataset = SliceDataset(root, "train", **options)
    images, targets = everything(dataset)
    for other in (everything(dataset, size=1), everything(SliceDataset(root, "train", cache=False, **options))):
        assert torch.equal(other[0], images)
        assert torch.equal(other[1], targets)
    backward = dataset.batch(range(len(dataset))[::-1])
    assert torch.equal(backward["image"].flip(0), images)
    for workers in (0, 2):
        batches = list(DataLoader(dataset, batch_size=5, num_workers=workers))
        assert torch.equal(torch.cat([batch["image"] for batch in batches]), images)
    sample = dataset[4]
    assert torch.equal(sample["image"], images[4])
    assert torch.equal(sample["target"], targets[4])
    assert (sample["case"], sample["slice"], sample["size"]) == ("case_00001", 0, SIZES[1])


def test_a_repetition_is_drawn_anew_from_the_same_slice(tmp_path):
    dataset = SliceDataset(store(tmp_path), "train", crop=64)
    count = len(dataset)
    repeated = torch.cat([dataset.batch([index * count + 2 for index in range(8)])["image"]])
    assert torch.equal(repeated[0], dataset[2]["image"])
    assert torch.equal(repeated[5], dataset[2 + 5 * count]["image"])
    assert len(repeated.unique(dim=0)) > 2
    assert len({tuple(image.flatten().sort().values.tolist()) for image in repeated}) == 1  # the same pixels, moved


def test_what_a_device_holds_gives_the_same_batches(tmp_path, monkeypatch):
    """A GPU looks up every pixel, where a CPU copies views."""
    dataset = SliceDataset(store(tmp_path), "train", crop=64, augment=AUGMENTATIONS)
    images, targets = everything(dataset)
    monkeypatch.setattr(moves, "_copied", moves._looked_up)
    looked_up = everything(dataset)
    assert torch.equal(looked_up[0], images)
    assert torch.equal(looked_up[1], targets)


def test_a_batch_asks_the_device_for_no_value(tmp_path):
    """On the meta device there are no values: asking for one raises."""
    dataset = SliceDataset(store(tmp_path), "train", crop=64, augment=AUGMENTATIONS, labeled=0.5)
    here = dataset.gather(range(12))
    assert {"inside", "affine", "contrast", "linear", "noise", "unlabeled"} <= here.keys()
    elsewhere = {key: value.to("meta") if isinstance(value, torch.Tensor) else value for key, value in here.items()}
    finished = dataset.finish(elsewhere)
    assert finished["image"].shape == finished["target"].shape == (12, 1, 64, 64)
    dataset._stored.pool = dataset._stored.pool.to(torch.device("meta"))
    batch = dataset.batch(range(12))
    assert batch["image"].device.type == batch["target"].device.type == "meta"
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta"):  # a single sample is for the host
        dataset[0]


def test_labels_that_are_held_back_show_nowhere(tmp_path):
    options = {"crop": 64, "crop_mode": "foreground", "augment": ()}
    dataset = SliceDataset(store(tmp_path), "train", labeled=0.4, **options)
    known = torch.tensor([record.patient not in dataset.unlabeled for record in dataset.records])
    assert torch.equal(dataset.labeled, known)
    assert known.sum() == 4
    raw, batch = dataset.gather(range(12)), dataset.batch(range(12))
    assert not raw["target"][~known].any()
    assert raw["target"][known].any()
    assert (batch["target"][~known] == -1).all()
    assert (batch["target"][known] >= 0).all()
    assert [found is not None for found in dataset._stored.foreground] == known.tolist()
    everyone = SliceDataset(dataset.root, "train", **options)
    assert everyone.labeled is None
    assert torch.equal(everyone.batch(range(12))["target"][known], batch["target"][known])


def test_gathered_samples_are_as_small_as_they_are_stored(tmp_path):
    raw = SliceDataset(store(tmp_path), "train", crop=64).gather(range(8))
    assert (raw["image"].dtype, raw["target"].dtype) == (torch.int16, torch.uint8)
    assert raw["case"] == ["case_00000"] * 4 + ["case_00001"] * 4
    assert raw["slice"] == [0, 1, 2, 3] * 2
    assert raw["size"] == SIZES[0]
    cropped = SliceDataset(store(tmp_path / "2"), "train", crop=32, augment=AUGMENTATIONS)
    raw = cropped.gather(range(12))
    assert "inside" not in raw
    assert "affine" in raw
    assert torch.equal(cropped.finish(raw)["target"], cropped.finish(raw)["target"])  # finishing leaves it as it is


# Where a split is held


class Memory:
    """Stands in for the memory of a GPU; the tensors themselves lie on the meta device."""

    def __init__(self, monkeypatch, free):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, 2 * free))


@pytest.mark.parametrize("cache_mb", [0, 100])  # read from disk to the device, or moved from memory
def test_a_device_holds_what_fits(tmp_path, monkeypatch, cache_mb):
    root, gpu = store(tmp_path), torch.device("meta")
    nbytes = 4 * 3 * sum(height * width for height, width in SIZES)  # int16 and uint8

    def held(free=0, **options):
        Memory(monkeypatch, free)
        dataset = SliceDataset(root, "train", crop=64, cache_mb=cache_mb, **options)
        return dataset.hold(gpu), dataset

    assert held(free=2 * nbytes)[0]
    assert not held(free=2 * nbytes - 2)[0]  # half of what is free
    assert held(device_gb=nbytes / 1e9)[0]
    assert not held(device_gb=(nbytes - 1) / 1e9)[0]
    assert not held(free=2 * nbytes, device_gb=0)[0]
    assert not held(free=2 * nbytes, cache=False)[0]
    holds, dataset = held(free=2 * nbytes)
    assert holds
    assert dataset._stored.pool.device == gpu
    Memory(monkeypatch, 0)
    assert dataset.hold(gpu)  # it is there already
    assert not dataset.hold(CPU)


def test_a_device_that_runs_out_of_memory_leaves_the_split_where_it_is(tmp_path, monkeypatch):
    dataset = SliceDataset(store(tmp_path), "train", crop=64, device_gb=1)
    image = dataset[3]["image"]

    def full(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr("datasets.batches.pool.Pool.to", full)
    assert not dataset.hold(torch.device("meta"))
    assert torch.equal(dataset[3]["image"], image)


def test_a_slice_of_another_size_than_its_case_is_named(tmp_path):
    image, label = smooth((2, 40, 48), np.int16)
    root = store_of(tmp_path / "s", image, label)
    np.savez(root / "a" / "0001.npz", image=image[1, :39], label=label[1, :39])
    with pytest.raises(ValueError, match=r"0001.npz: its image is 39 x 48 pixels, the first slice of a 40 x 48"):
        SliceDataset(root, "train", crop=32)


def test_samples_of_one_view_are_one_image_and_others_are_not(tmp_path):
    dataset, images = SliceDataset(store(tmp_path), "train", crop=64, augment=("flip", "rot90")), {}
    for epoch in range(24):
        dataset.epoch = epoch
        batch = dataset.batch([0, 1])
        for view, image in zip(batch["view"], batch["image"], strict=True):
            assert torch.equal(images.setdefault(view, image), image)
    assert sorted(images) == list(range(2 * VIEWS)), "all views come, and their numbers are those of the first samples"
    different = {image.numpy().tobytes() for image in images.values()}
    assert len(different) == 2 * VIEWS


def test_the_benchmark_measures_both_ways(capsys):
    assert main(["pipeline", "--slices=2", "--batch_size=2", "--rounds=1"]) == 0
    rows = capsys.readouterr().out.splitlines()[-4:]
    assert [row.split()[0] for row in rows] == ["384", "384", "64", "64"]
    assert all(float(row.split()[-1].rstrip("x")) > 0 for row in rows)
