"""Folders of images: classes, the val that is carved from train, patients, and files that are no images."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.images.dataset import ImageOptions
from datasets.images.folder import image_folder
from tests.image_stores import write_image, write_image_folder


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_image_folder(tmp_path / "folder")


def test_classes_are_the_folders_of_train(folder):
    dataset = image_folder(str(folder), "test")
    assert dataset.class_names == ["glioma", "meningioma", "none"]
    assert dataset.class_counts == [3, 2, 2]
    assert dataset.cases[0] == "test/glioma/test_glioma_0.jpg"
    stored = np.asarray(Image.open(folder / "test/none/test_none_1.png"))
    small = image_folder(str(folder), "test", ImageOptions(image_size=40, normalization="none"))[6]["image"]
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
    def cases(split_seed=0, seed=0):
        options = ImageOptions(seed=seed)
        return image_folder(str(folder), "val", options, val_fraction=0.3, split_seed=split_seed).cases

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
    with pytest.raises(ValueError, match=r"2 images .*a.jpg: unreadable .*b.png: unreadable .*restore it"):
        image_folder(str(folder), "train", val_fraction=0.01)


def test_what_is_not_meant_to_be_an_image_is_left_alone(folder):
    for name in (".hidden.jpg", "notes.txt"):
        (folder / "test" / "glioma" / name).write_text("no image")
    assert image_folder(str(folder), "test").class_counts == [3, 2, 2]


@pytest.mark.parametrize("cache_mb", [0, 100])
@pytest.mark.parametrize("name", ["test/glioma/test_glioma_0.jpg", "test/none/test_none_0.png"])
def test_a_damaged_image_is_named(folder, name, cache_mb):
    file = folder / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(ValueError, match=f"{file.name}: unreadable image"):
        list(image_folder(str(folder), "test", ImageOptions(cache_mb=cache_mb)))


def test_sixteen_bits_are_refused(folder):
    Image.fromarray(np.full((8, 8), 3000, np.uint16)).save(folder / "test" / "none" / "deep.png")
    with pytest.raises(ValueError, match=r"deep.png: has more than 8 bits"):
        image_folder(str(folder), "test")


def test_transparency_and_palettes_become_color(folder):
    color = np.zeros((8, 8, 4), np.uint8)
    color[:] = (200, 100, 50, 0)
    Image.fromarray(color).save(folder / "test" / "glioma" / "a.png")
    Image.fromarray(color[..., :3]).quantize(4).save(folder / "test" / "glioma" / "b.png")
    dataset = image_folder(str(folder), "test", ImageOptions(image_size=8, normalization="none"))
    for index in (0, 1):
        assert (dataset[index]["image"] * 255).round()[:, 4, 4].tolist() == pytest.approx([200, 100, 50], abs=4)
