"""Labeled images from an npz and from folders: what the network sees, who is in which split, and what is refused."""

import csv
import json
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from datasets import DATASETS
from datasets.image_folder import image_folder
from datasets.image_transforms import Preparation
from datasets.images import ImageRecord, LabeledImages
from datasets.medmnist import CLASS_NAMES, medmnist
from datasets.splits import SPLITS, split_sha256
from tests.image_stores import MEDMNIST_COUNTS, write_image, write_image_folder, write_isic, write_medmnist
from utils.config import ROOT, build

DERMAMNIST = ROOT.parent / "shared" / "data" / "dermamnist" / "dermamnist.npz"
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
        assert list(sample) == ["image", "target", "case"]
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
        ({"augment": {"flop": True}}, "flop"),
        ({"augment": {"rotation": 300}}, "augment.rotation 300"),
        ({"normalization": "imagenett"}, "imagenett"),
        ({"in_channels": 2}, "in_channels"),
        ({"balance": "weights"}, "balance"),
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
        LabeledImages(records, lambda record: np.zeros((8, 8), np.uint8), ["x", "y"], "train", patients, 8)


def test_a_split_without_images_is_refused(tmp_path):
    file = write_medmnist(tmp_path / "x.npz", {"train": (2, 2), "val": (1, 1), "test": (1, 1)})
    with pytest.raises(ValueError, match="split 'valid' is unknown"):
        medmnist(str(file), "valid")
    root = write_image_folder(tmp_path / "folder")
    for path in [*(root / "test").rglob("*.*")]:
        path.unlink()
    with pytest.raises(ValueError, match="the test split has no images"):
        image_folder(str(root), "test")


# MedMNIST


@pytest.mark.parametrize("channels", [1, 3])
def test_medmnist_keeps_the_official_split_order_and_pixels(tmp_path, channels):
    file = write_medmnist(tmp_path / "x.npz", channels=channels)
    stored = np.load(file)
    for split, counts in MEDMNIST_COUNTS.items():
        dataset = medmnist(str(file), split, in_channels=channels, normalization="none")
        assert dataset.class_counts == list(counts)
        assert dataset.cases[:2] == [f"{split}_00000", f"{split}_00001"]
        assert [int(sample["target"]) for sample in dataset] == stored[f"{split}_labels"][:, 0].tolist()
        for index, sample in enumerate(dataset):  # 28 x 28, as stored
            image = stored[f"{split}_images"][index].reshape(28, 28, channels)
            assert np.array_equal((sample["image"].numpy().transpose(1, 2, 0) * 255).round(), image)


@pytest.mark.parametrize("stem", ["pneumoniamnist", "pneumoniamnist_64"])
def test_an_official_set_is_known_by_its_file(tmp_path, stem):
    counts = dict.fromkeys(SPLITS, (2, 1))
    assert medmnist(str(write_medmnist(tmp_path / f"{stem}.npz", counts)), "val").class_names == ["normal", "pneumonia"]


def test_official_sets_have_as_many_names_as_classes():
    # Yang et al. 2023, Table 2
    expected = {"pathmnist": 9, "dermamnist": 7, "octmnist": 4, "pneumoniamnist": 2, "retinamnist": 5}
    expected |= {"breastmnist": 2, "bloodmnist": 8, "tissuemnist": 8}
    expected |= {"organamnist": 11, "organcmnist": 11, "organsmnist": 11}
    assert {name: len(set(names)) for name, names in CLASS_NAMES.items()} == expected


def test_other_files_get_numbers_or_the_names_given(tmp_path):
    file = str(write_medmnist(tmp_path / "own.npz"))
    assert medmnist(file, "val").class_names == ["class 0", "class 1", "class 2"]
    assert medmnist(file, "val", class_names=["a", "b", "c", "d"]).class_counts == [3, 2, 1, 0]
    with pytest.raises(ValueError, match="labels go up to 2, but there are 2 class names"):
        medmnist(file, "val", class_names=["a", "b"])


def rewritten(file: Path, **arrays) -> str:
    np.savez(file, **{**np.load(file), **arrays})
    return str(file)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"train_labels": np.zeros((21, 14), np.uint8)}, "14 labels per image"),
        ({"train_images": np.zeros((21, 28, 28, 28), np.uint8)}, "3D sets are not read"),
        ({"train_images": np.zeros((21, 28, 28), np.float32)}, "float32"),
        ({"train_images": np.zeros((20, 28, 28), np.uint8)}, "20 train_images but 21 train_labels"),
        ({"val_labels": np.full((6, 1), -1)}, "val_labels are no class numbers"),
    ],
)
def test_another_kind_of_npz_is_refused(tmp_path, arrays, said):
    file = rewritten(write_medmnist(tmp_path / "x.npz"), **arrays)
    with pytest.raises(ValueError, match=said):
        medmnist(file, "train")


def test_what_is_no_medmnist_file_is_refused(tmp_path):
    np.savez(tmp_path / "other.npz", images=np.zeros(3))
    (tmp_path / "text.npz").write_text("hello")
    for name in ("other.npz", "text.npz"):
        with pytest.raises(ValueError, match="not a MedMNIST npz"):
            medmnist(str(tmp_path / name), "train")
    with pytest.raises(ValueError, match=r"no such file: .*download: true"):
        medmnist(str(tmp_path / "absent.npz"), "train")


def test_a_download_asks_the_package_for_the_set_and_its_size(tmp_path, monkeypatch):
    asked = []

    def fetch(split, download, root, size):
        asked.append((download, size))
        counts = dict.fromkeys(SPLITS, (1,) * 7)
        write_medmnist(Path(root) / "dermamnist_64.npz", counts, side=64)

    package = SimpleNamespace(INFO={"dermamnist": {"python_class": "DermaMNIST"}}, DermaMNIST=fetch)
    monkeypatch.setitem(sys.modules, "medmnist", package)
    file = str(tmp_path / "new" / "dermamnist_64.npz")
    assert medmnist(file, "val", download=True)[0]["image"].shape == (3, 64, 64)
    medmnist(file, "val", download=True)  # it is there now
    assert asked == [(True, 64)]


def test_a_download_that_fails_says_why(tmp_path, monkeypatch):
    def fetch(*_, **__):
        raise RuntimeError("Something went wrong\nwhen downloading!")

    package = SimpleNamespace(INFO={"dermamnist": {"python_class": "DermaMNIST"}}, DermaMNIST=fetch)
    monkeypatch.setitem(sys.modules, "medmnist", package)
    with pytest.raises(ValueError, match=r"could not be downloaded \(Something went wrong when downloading!\)"):
        medmnist(str(tmp_path / "dermamnist.npz"), "train", download=True)
    with pytest.raises(ValueError, match="no MedMNIST set is called dermamist"):
        medmnist(str(tmp_path / "dermamist.npz"), "train", download=True)
    del package.DermaMNIST  # as it is where the package's own requirements are missing
    with pytest.raises(ValueError, match="pip install medmnist"):
        medmnist(str(tmp_path / "dermamnist.npz"), "train", download=True)
    monkeypatch.setitem(sys.modules, "medmnist", None)
    with pytest.raises(ValueError, match="pip install medmnist"):
        medmnist(str(tmp_path / "dermamnist.npz"), "train", download=True)


@pytest.mark.skipif(not DERMAMNIST.is_file(), reason="DermaMNIST is not in ../shared/data")
def test_dermamnist_is_read_whole():
    counts = {}
    for split in SPLITS:
        dataset = medmnist(str(DERMAMNIST), split, image_size=28)
        counts[split] = dataset.class_counts
        assert dataset[len(dataset) - 1]["image"].shape == (3, 28, 28)
    assert {split: sum(values) for split, values in counts.items()} == {"train": 7007, "val": 1003, "test": 2005}
    # HAM10000 has 327 akiec, 514 bcc, 1099 bkl, 115 df, 1113 mel, 6705 nv, 142 vasc
    assert [sum(values) for values in zip(*counts.values(), strict=True)] == [327, 514, 1099, 115, 1113, 6705, 142]
    assert dataset.class_names[4:6] == ["melanoma", "melanocytic nevi"]


# Folders


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_image_folder(tmp_path / "folder")


def test_classes_are_the_folders_of_train(folder):
    dataset = image_folder(str(folder), "test")
    assert dataset.class_names == ["glioma", "meningioma", "none"]
    assert dataset.class_counts == [3, 2, 2]
    assert dataset.cases[0] == "test/glioma/test_glioma_0.jpg"
    stored = np.asarray(Image.open(folder / "test/none/test_none_1.png"))
    small = image_folder(str(folder), "test", image_size=40, normalization="none")[6]["image"]
    assert np.array_equal((small.numpy() * 255).round(), np.stack([stored] * 3))  # gray, repeated


def test_val_is_carved_from_each_class_of_train(folder):
    train, val = (image_folder(str(folder), name, val_fraction=0.25) for name in ("train", "val"))
    # of 10, 6, 4 images: 2.5, 1.5, 1 rounded; train gets the remainder when both halves are as large
    assert [a + b for a, b in zip(train.class_counts, val.class_counts, strict=True)] == [10, 6, 4]
    assert all(abs(count - 0.25 * total) <= 0.5 for count, total in zip(val.class_counts, (10, 6, 4), strict=True))
    assert len(set(train.cases) | set(val.cases)) == 20
    assert all(case.startswith("train/") for case in val.cases)


def test_every_class_of_two_patients_is_in_val(folder):
    assert image_folder(str(folder), "val", val_fraction=0.01).class_counts == [1, 1, 1]


def test_val_depends_on_the_split_seed_alone(folder):
    def cases(**seeds):
        return image_folder(str(folder), "val", val_fraction=0.3, **seeds).cases

    assert cases(seed=1) == cases(seed=2)
    assert cases(split_seed=1) != cases(split_seed=2)


def test_a_val_folder_is_taken_as_it_is(folder):
    write_image(folder / "val" / "none" / "one.png", 2, 7)
    val, train = (image_folder(str(folder), name) for name in ("val", "train"))
    assert (val.cases, val.class_counts) == (["val/none/one.png"], [0, 0, 1])
    assert train.class_counts == [10, 6, 4]


def write_patients(file: Path, patient_of: dict[str, str]) -> str:
    with file.open("w", newline="") as lines:
        csv.writer(lines).writerows([["image", "patient"], *patient_of.items()])
    return str(file)


def patients_of(folder: Path) -> dict[str, str]:
    """Two images a patient in train; train and test apart; named by file, by stem, and by path."""
    names = {}
    for split in ("train", "test"):
        for number, path in enumerate(sorted((folder / split).rglob("*.*"))):
            name = (path.name, path.stem, path.relative_to(folder).as_posix())[number % 3]
            names[name] = f"{split}{number // 2}"
    return names


def test_images_of_a_patient_stay_together(folder):
    file = write_patients(folder / "patients.csv", patients_of(folder))
    train, val = (image_folder(str(folder), name, patients=file, val_fraction=0.3) for name in ("train", "val"))
    assert len(train.patients) + len(val.patients) == 10
    assert not set(train.patients) & set(val.patients)
    assert len(val) == 2 * len(val.patients) > 2


def test_a_patient_in_train_and_test_is_refused(folder):
    names = {name: patient.replace("test1", "train1") for name, patient in patients_of(folder).items()}
    with pytest.raises(ValueError, match=r"patient train1 is in (train|val) and test"):
        image_folder(str(folder), "train", patients=write_patients(folder / "patients.csv", names))


def test_a_list_of_patients_must_name_every_image(folder):
    names = patients_of(folder)
    del names["train_glioma_1"]
    with pytest.raises(ValueError, match=r"names no patient of 1 images, such as train/glioma/train_glioma_1.jpg"):
        image_folder(str(folder), "test", patients=write_patients(folder / "patients.csv", names))
    (folder / "patients.csv").write_text("file,who\na,b\n")
    with pytest.raises(ValueError, match="columns image, patient"):
        image_folder(str(folder), "test", patients=str(folder / "patients.csv"))


def test_a_class_that_train_does_not_have_is_refused(folder):
    write_image(folder / "test" / "pituitary" / "x.jpg", 0, 0)
    with pytest.raises(ValueError, match=r"test/pituitary: train has no such class"):
        image_folder(str(folder), "train")


def test_other_layouts_are_refused(tmp_path, folder):
    with pytest.raises(ValueError, match="train: no such folder"):
        image_folder(str(tmp_path / "nothing"), "train")
    (tmp_path / "one" / "train" / "only").mkdir(parents=True)
    with pytest.raises(ValueError, match="has 1 folders: give one per class"):
        image_folder(str(tmp_path / "one"), "train")
    (folder / "train" / "empty").mkdir()
    with pytest.raises(ValueError, match="train/empty holds no image"):
        image_folder(str(folder), "train")


def test_files_that_are_no_images_are_named(folder):
    for name in ("a.jpg", "b.png"):
        (folder / "train" / "glioma" / name).write_text("not an image")
    (folder / "train" / "glioma" / ".hidden.jpg").write_text("no image, and not meant to be one")
    (folder / "train" / "glioma" / "notes.txt").write_text("neither")
    with pytest.raises(ValueError, match=r"a.jpg, .*b.png: unreadable images: restore or remove") as caught:
        image_folder(str(folder), "train", val_fraction=0.01)
    assert "hidden" not in str(caught.value)
    image_folder(str(folder), "test")


@pytest.mark.parametrize("cache_mb", [0, 100])
@pytest.mark.parametrize("name", ["test/glioma/test_glioma_0.jpg", "test/none/test_none_0.png"])
def test_a_damaged_image_is_named(folder, name, cache_mb):
    file = folder / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(ValueError, match=f"{file.name}: unreadable image"):
        list(image_folder(str(folder), "test", cache_mb=cache_mb))


def test_sixteen_bits_are_refused(folder):
    Image.fromarray(np.full((8, 8), 3000, np.uint16)).save(folder / "test" / "none" / "deep.png")
    with pytest.raises(ValueError, match=r"deep.png: has more than 8 bits"):
        image_folder(str(folder), "test")


def test_transparency_and_palettes_become_color(folder):
    color = np.zeros((8, 8, 4), np.uint8)
    color[:] = (200, 100, 50, 0)
    Image.fromarray(color).save(folder / "test" / "glioma" / "a.png")
    Image.fromarray(color[..., :3]).quantize(4).save(folder / "test" / "glioma" / "b.png")
    dataset = image_folder(str(folder), "test", image_size=8, normalization="none")
    for index in (0, 1):
        assert (dataset[index]["image"] * 255).round()[:, 4, 4].tolist() == pytest.approx([200, 100, 50], abs=4)
