"""MedMNIST files: the official split and names, what else is refused, and the download."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from datasets.images.dataset import ImageOptions
from datasets.images.medmnist import CLASS_NAMES, medmnist
from datasets.splits import SPLITS
from tests.image_stores import MEDMNIST_COUNTS, write_medmnist
from utils.recipe.schema import ROOT

DERMAMNIST = ROOT.parent / "shared" / "data" / "dermamnist" / "dermamnist.npz"


@pytest.mark.parametrize("channels", [1, 3])
def test_medmnist_keeps_the_official_split_order_and_pixels(tmp_path, channels):
    file = write_medmnist(tmp_path / "x.npz", channels=channels)
    stored = np.load(file)
    for split, counts in MEDMNIST_COUNTS.items():
        dataset = medmnist(str(file), split, ImageOptions(in_channels=channels, normalization="none"))
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
        ({"val_labels": np.full((6, 1), -1)}, "val_labels are not class numbers"),
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
        dataset = medmnist(str(DERMAMNIST), split, ImageOptions(image_size=28))
        counts[split] = dataset.class_counts
        assert dataset[len(dataset) - 1]["image"].shape == (3, 28, 28)
    assert {split: sum(values) for split, values in counts.items()} == {"train": 7007, "val": 1003, "test": 2005}
    # HAM10000 has 327 akiec, 514 bcc, 1099 bkl, 115 df, 1113 mel, 6705 nv, 142 vasc
    assert [sum(values) for values in zip(*counts.values(), strict=True)] == [327, 514, 1099, 115, 1113, 6705, 142]
    assert dataset.class_names[4:6] == ["melanoma", "melanocytic nevi"]


def cut(path: Path, keep: float) -> Path:
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    return path


def flipped(path: Path) -> Path:
    """With wrong bytes in the middle of its largest array."""
    content = bytearray(path.read_bytes())
    content[len(content) // 4 : len(content) // 4 + 64] = bytes(64)
    path.write_bytes(content)
    return path


def pickled(path: Path) -> Path:
    np.savez(path, **{**np.load(path), "train_labels": np.array([[{"a": 1}]] * 21, object)})
    return path


@pytest.mark.parametrize("break_it", [lambda path: cut(path, 0.5), lambda path: cut(path, 0), flipped, pickled])
def test_a_damaged_or_pickled_file_is_refused_in_one_line(tmp_path, break_it):
    file = break_it(write_medmnist(tmp_path / "x.npz"))
    with pytest.raises(ValueError, match=r"x.npz: not a MedMNIST npz \(.*\): get it again, or write it anew") as caught:
        medmnist(str(file), "train")
    assert "\n" not in str(caught.value)


def test_empty_labels_are_refused_and_a_folder_is_named(tmp_path):
    file = rewritten(write_medmnist(tmp_path / "x.npz"), val_labels=np.zeros((0, 1), np.uint8))
    with pytest.raises(ValueError, match=r"val_labels are \(0, 1\): give \(N,\) or \(N, 1\), at least one"):
        medmnist(file, "train")
    with pytest.raises(ValueError, match=r"Is a directory: a folder is in its place"):
        medmnist(str(tmp_path), "train")


def test_images_in_two_splits_are_noted(tmp_path):
    file = write_medmnist(tmp_path / "x.npz")
    assert medmnist(str(file), "train").notes == []
    with np.load(file) as content:
        arrays = dict(content)
    arrays["test_images"][[1, 3]] = arrays["train_images"][[4, 5]]
    other = rewritten(tmp_path / "x.npz", **arrays)
    said = [f"{file}: 2 images are in two splits, such as train_00004 and test_00001"]
    assert medmnist(other, "train").notes == medmnist(other, "val").notes == said
