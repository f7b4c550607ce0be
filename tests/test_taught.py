"""Soft maps as part of a batch: they move as the image does, to the last bit, and become a network's answer."""

import csv
import json

import numpy as np
import pytest
import torch
from soft_map_folders import write_maps

from datasets.fingerprints import digest
from datasets.slices.augmentation import AUGMENTATIONS
from datasets.slices.dataset import SliceDataset
from datasets.slices.soft_classes import class_rows, match_classes
from datasets.slices.soft_codes import decode, encode
from datasets.slices.soft_maps import read_maps
from datasets.slices.taught import SoftTeacher, least
from tests.conftest import SLICES, stored, write_store

SIZES = [(70, 90), (100, 64), (40, 48)]  # larger than the crop, larger in one dimension, smaller
NAMES = {1: "kidney", 2: "tumor"}


@pytest.fixture(scope="module")
def mapped(tmp_path_factory):
    """Stores whose images are the probabilities of two classes and of both, as codes give them, and maps of them.

    Their z-score changes nothing, so that a batch's image is the decoded map of a class, moved as floats.
    """
    home, random = tmp_path_factory.mktemp("mapped"), np.random.default_rng(0)
    shapes = {f"case_{number:05d}": (SLICES, *SIZES[number % 3]) for number in range(6)}
    soft = {case: decode(encode(random.random((2, *shape), np.float32) / 2)) for case, shape in shapes.items()}
    for case, maps in soft.items():
        soft[case] = np.concatenate((maps, decode(255 - encode(1 - maps.sum(0, keepdims=True)))))
    label = {case: (random.random(shape) > 0.97).astype(np.uint8) for case, shape in shapes.items()}
    for case in label:
        label[case][1] = 0  # a slice of background
    stores = []
    for number in range(3):
        cases = {case: (soft[case][number], label[case]) for case in shapes}
        stores.append(write_store(home / str(number), cases, "MR", NAMES, [2], "all", "made"))
        rows = list(csv.DictReader((stores[-1] / "index.csv").open()))
        with (stores[-1] / "index.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(row | {"mean": 0, "std": 1} for row in rows)
    classes = {case: maps[:2].swapaxes(0, 1) for case, maps in soft.items()}
    return stores, SoftTeacher([read_maps(write_maps(home / "maps", stores[0], classes, NAMES.values()))])


OPTIONS = [
    *({"augment": [name]} for name in AUGMENTATIONS),
    {"augment": AUGMENTATIONS, "labeled": 0.4},
    {"augment": ("flip", "rot90"), "crop_mode": "foreground", "cache": False},
    {"augment": ("flip", "affine"), "neighbors": 1, "thin_background": 0.0},
    {"augment": ("rot90", "affine"), "neighbors": 2, "cache": False},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_maps_move_as_images_do(mapped, options):
    stores, teacher = mapped
    geometry = [name for name in options["augment"] if name != "intensity"]  # which changes the image alone
    images = [SliceDataset(store, "train", crop=64, **options | {"augment": geometry}) for store in stores]
    taught = SliceDataset(stores[0], "train", crop=64, maps=teacher, **options)
    without, moved = SliceDataset(stores[0], "train", crop=64, **options), 0
    for epoch in range(2):
        for dataset in (*images, taught, without):
            dataset.epoch = epoch
        indices = range(epoch, len(taught), 2)
        batch, plain = taught.batch(indices), without.batch(indices)
        middle = taught.neighbors
        wanted = torch.cat([each.batch(indices)["image"][:, middle : middle + 1] for each in images], 1)
        every = torch.cat((1 - wanted[:, 2:], wanted[:, :2]), 1)
        assert torch.equal(batch["teacher"], (every / every.sum(1, keepdim=True)).clamp(least(3), 1).log())
        assert batch.keys() - {"teacher"} == plain.keys()
        assert torch.equal(batch["image"], plain["image"]) and torch.equal(batch["target"], plain["target"])
        moved += (wanted[:, 0] == 0).all(1).any()  # a row of padding
    assert moved


def test_a_map_of_every_split_is_where_its_slice_is(mapped):
    stores, teacher = mapped
    for split, case in (("val", "case_00003"), ("test", "case_00004")):
        dataset = SliceDataset(stores[0], split, crop=64, maps=teacher)
        image, _ = stored(stores[0], case, 2)
        sample = dataset.batch([2])
        height, width = sample["size"]
        top, left = ((length - side) // 2 for length, side in zip(sample["image"].shape[2:], image.shape, strict=True))
        inside = sample["teacher"][0, 1, top : top + height, left : left + width].exp()
        assert torch.allclose(inside, torch.from_numpy(image), atol=2 / 255)


def test_maps_take_part_in_what_is_held_and_ask_the_device_for_no_value(mapped):
    stores, teacher = mapped
    dataset = SliceDataset(stores[0], "train", crop=64, augment=AUGMENTATIONS, maps=teacher, labeled=0.5)
    assert dataset._stored.nbytes == sum(SLICES * height * width * (4 + 1 + 3) for height, width in SIZES)
    dataset._stored.pool = dataset._stored.pool.to(torch.device("meta"))
    batch = dataset.batch(range(12))
    assert batch["teacher"].device.type == "meta" and batch["teacher"].shape == (12, 3, 64, 64)
    assert dataset.gather(range(3))["codes"].dtype == torch.uint8


def mapped_to(store, tmp_path, classes, table, values, **options):
    """The answers (num_classes, H, W), as probabilities, to a slice of case_00000 with a tumor, and its target."""
    shape = {
        case: (6, len(classes), *stored(store, case, 0)[0].shape) for case in ("case_00000", "case_00001", "case_00002")
    }
    maps = {case: np.broadcast_to(np.float32(values)[:, None, None], each) for case, each in shape.items()}
    teacher = SoftTeacher([read_maps(write_maps(tmp_path / "maps", store, maps, classes))], table)
    dataset = SliceDataset(store, "train", task="all", crop=None, augment=(), maps=teacher, **options)
    batch = dataset.batch([2])
    middle = (slice(None), slice(16, 40), slice(16, 40))  # within the padding
    return batch["teacher"][0].exp()[middle], batch["target"][0][middle]


def test_classes_are_merged_by_their_sum_and_what_the_student_lacks_is_background(slice_store, tmp_path):
    table = {"kidney_left": "kidney", "kidney_right": "kidney", "lesion": "tumor"}
    classes = ("liver", "kidney_right", "lesion", "kidney_left")
    answers, _ = mapped_to(slice_store, tmp_path, classes, table, [0.25, 0.125, 0.0625, 0.25])
    for answer, wanted in zip(answers, (0.5625, 0.375, 0.0625), strict=True):
        assert answer.numpy() == pytest.approx(wanted, abs=3 / 255)  # of three codes


def test_a_class_that_the_teacher_lacks_is_taken_from_labels(slice_store, tmp_path):
    answers, target = mapped_to(slice_store, tmp_path, ("kidney",), {}, [0.5])
    tumor = (target == 2)[0]
    assert tumor.any() and not tumor.all()
    assert torch.allclose(answers[:, tumor], torch.tensor([[least(3)], [least(3)], [1.0]]))
    for number in (0, 1):
        assert answers[number][~tumor].numpy() == pytest.approx(0.5, abs=1 / 255)


def answers_to(tmp_path, probabilities):
    """The answers of maps (classes, pixels), background first, to a slice of these pixels, as probabilities."""
    store = write_store(
        tmp_path / "store",
        {case: (np.zeros((1, 64, 64), np.int16), np.zeros((1, 1, 1), np.uint8)) for case in "abc"},
        *("CT", {}, [], "all", "scans", {"train": ["a"], "val": ["b"], "test": ["c"]}),
    )
    names = [f"class_{number}" for number in range(1, len(probabilities))]
    maps = write_maps(tmp_path / "maps", store, {"a": probabilities[1:].reshape(1, -1, 64, 64)}, names)

    def read():
        teacher = SoftTeacher([read_maps(maps)])
        dataset = SliceDataset(store, "train", crop=64, augment=(), class_names=names, maps=teacher)
        return dataset.batch([0])["teacher"][0].double().exp().flatten(1).numpy()

    return read, maps


@pytest.mark.parametrize("count", [2, 3, 6, 21, 118])
def test_answers_of_every_class_are_as_exact_as_is_said(tmp_path, count):
    random = np.random.default_rng(count)
    logits = random.normal(size=(count, 4096)) * random.uniform(0.5, 6, 4096)
    true = np.exp(logits - logits.max(0))
    true = (true / true.sum(0)).astype(np.float32)
    answers = answers_to(tmp_path, true)[0]()
    assert np.abs(answers - true).max() < 0.01
    assert np.abs(np.log(answers / true))[true > 6e-5].max() < 0.07


@pytest.mark.parametrize("count", [2, 3, 14, 118])
def test_a_sure_pixel_stays_sure_at_temperature_4(tmp_path, count):
    sure = np.eye(count, dtype=np.float32)[:, np.arange(4096) % count]
    answers = answers_to(tmp_path, sure)[0]()
    softened = answers**0.25 / (answers**0.25).sum(0)
    assert softened[sure == 1].min() > 0.96


def test_a_folder_without_background_is_read(tmp_path):
    random = np.random.default_rng(0).random((4, 4096)).astype(np.float32)
    read, maps = answers_to(tmp_path, true := random / random.sum(0))
    codes, content = np.load(maps / "a.npy")[:, 1:], json.loads((maps / "maps.json").read_text())
    assert content.pop("background") is True
    (maps / "maps.json").write_text(json.dumps(content))
    record = json.loads((maps / "a.json").read_text())
    (maps / "a.json").write_text(json.dumps(record | {"content": digest(codes.tobytes())}))
    np.save(maps / "a.npy", codes)
    assert np.abs(read() - true).max() < 4 / 255


def test_classes_are_matched_by_name_and_table():
    matrix = match_classes(
        ["liver", "kidney", "cyst"], ["kidney", "tumor"], {"cyst": "kidney", "liver": "background"}, {}
    )
    assert matrix.tolist() == [[False, False], [True, False], [True, False]]
    rows = class_rows(["liver", "kidney", "cyst"], ["kidney", "tumor"], matrix)
    assert [tuple(row.values()) for row in rows] == [
        ("liver", "background"),
        ("kidney", "kidney"),
        ("cyst", "kidney"),
        ("none, labels only", "tumor"),
    ]
    for table, message in (
        ({"kidny": "kidney"}, "the teacher has no 'kidny'; did you mean 'kidney'"),
        ({"liver": "tumr"}, "the student has no 'tumr'; did you mean 'tumor'"),
        ({"kidney": "background"}, "none of the teacher's liver, kidney is one of the student's kidney, tumor"),
    ):
        with pytest.raises(ValueError, match=message):
            match_classes(["liver", "kidney"], ["kidney", "tumor"], table, {})
    labels, table = {"kidney": "kidney", "tumor": "kidney"}, {"tumor": "background", "liver": "kidney"}
    assert match_classes(["liver", "kidney", "tumor"], ["kidney"], table, labels)[:, 0].tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("task", "wanted"), [("organ", [1, 1, 0]), ("tumor", [0, 1, 0]), ("all", [[1, 0], [0, 1], [0, 0]])]
)
def test_a_teachers_class_is_what_the_label_of_its_name_is_to_the_task(slice_store, tmp_path, task, wanted):
    classes = ("kidney", "tumor", "liver")
    maps = {f"case_{number:05d}": np.zeros((6, 3, *((44, 40) if number == 1 else (40, 48)))) for number in range(3)}
    teacher = SoftTeacher([read_maps(write_maps(tmp_path / "maps", slice_store, maps, classes))])
    matrix = SliceDataset(slice_store, "train", task=task, crop=32, maps=teacher).taught.matrix
    assert matrix.tolist() == np.array(wanted, bool).reshape(3, -1).tolist()


def test_cases_without_maps_and_cases_that_changed_or_are_damaged_are_refused(slice_store, tmp_path):
    maps = {
        case: np.zeros((6, 1, 44, 40) if case == "case_00001" else (6, 1, 40, 48))
        for case in ("case_00000", "case_00001")
    }
    folder = write_maps(tmp_path / "maps", slice_store, maps, ["kidney"])

    def open_split(split="train"):
        return SliceDataset(slice_store, split, task="all", crop=32, maps=SoftTeacher([read_maps(folder)]))

    with pytest.raises(ValueError, match=r"has no soft maps of 1 of 3 training cases \(case_00002\)"):
        open_split()
    assert open_split("val").taught.cases == []
    write_maps(tmp_path / "others", slice_store, {"case_00002": np.zeros((6, 1, 40, 48))}, ["kidney"])
    both = SoftTeacher([read_maps(folder), read_maps(tmp_path / "others")])
    assert len(SliceDataset(slice_store, "train", task="all", crop=32, maps=both).taught.cases) == 3
    with pytest.raises(ValueError, match=r"teacher\.maps: .* both hold case_00000, case_00001: remove"):
        SoftTeacher([read_maps(folder)] * 2)
    codes = np.load(folder / "case_00001.npy")
    for damaged in (codes + 1, codes[:4], codes[..., :32]):
        np.save(folder / "case_00001.npy", damaged)
        with pytest.raises(ValueError, match=r"maps/case_00001\.npy: is not what was written, or damaged: remove"):
            SliceDataset(slice_store, "train", task="all", crop=32, maps=both)
    image, label = stored(slice_store, "case_00001", 3)
    np.savez(slice_store / "case_00001/0003.npz", image=image + 1, label=label)
    with pytest.raises(ValueError, match=r"case_00001\.json: the slices of case_00001 have changed since"):
        SliceDataset(slice_store, "train", task="all", crop=32, maps=both)
