"""What a folder of images is made of: what is passed over, what stops it, and the same picture in two places."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.images import duplicates
from datasets.images.dataset import ImageOptions
from datasets.images.folder import image_folder
from tests.image_stores import write_image, write_image_folder


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_image_folder(tmp_path / "folder")


def build(folder: Path, split: str = "train", **given):
    return image_folder(str(folder), split, ImageOptions(image_size=16), **given)


def test_what_is_passed_over_is_counted_in_one_line_a_split(folder):
    for name in ("train/glioma/notes.txt", "train/glioma/._a.jpg", "train/loose.jpg", "train/glioma/scan.heic"):
        (folder / name).write_bytes(b"x")
    (folder / "train/__MACOSX").mkdir()
    (folder / "valid").mkdir()
    dataset = build(folder)
    assert len(dataset.records) + len(build(folder, "val").records) == 20
    assert dataset.notes == build(folder, "test").notes
    assert dataset.notes == [
        f"{folder}: passed over: the folders valid, which are none of train, val, test",
        f"{folder / 'train'}: passed over: 2 by hidden name (such as __MACOSX), 2 by ending (1 .txt, 1 .heic), "
        "1 by place, in no folder of a class (loose.jpg)",
    ]
    assert build(write_image_folder(folder / "other")).notes == []


def test_linked_folders_are_read_once_and_loops_end(folder, tmp_path):
    shutil.move(folder / "train/glioma", tmp_path / "elsewhere")
    (folder / "train/glioma").mkdir()
    (folder / "train/glioma/more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/loop").symlink_to(tmp_path / "elsewhere")
    train, val = build(folder), build(folder, "val")
    assert train.class_counts[0] + val.class_counts[0] == 10
    assert any("loop: leads to a folder that is read already" in note for note in train.notes)


def test_a_dead_link_stops_it(folder):
    (folder / "test/none/gone.png").symlink_to(folder / "annex/gone.png")
    with pytest.raises(ValueError, match=r"gone.png: is a link to .*, which is not there: fetch its content"):
        build(folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_closed_folder_stops_it(folder):
    (folder / "train/none/closed").mkdir(mode=0)
    with pytest.raises(ValueError, match=r"closed: cannot be read \(Permission denied\)"):
        build(folder)


def test_all_bad_images_are_named_before_any_work(folder):
    for number in range(7):
        (folder / f"train/glioma/bad{number}.jpg").write_bytes(b"" if number else b"\xff\xd8\xff")
        cut = folder / f"test/none/cut{number}.png"
        write_image(cut, 0, 900 + number)
        cut.write_bytes(cut.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"^7 images .* cannot be used: .*bad0.jpg: .*bad4.jpg: .*; and 2 more$"):
        build(folder, val_fraction=0.01)
    with pytest.raises(ValueError, match=r"^7 images or folders cannot be used: .*cut0.png: .*; and 2 more$"):
        build(folder, "test")


@pytest.mark.parametrize(
    ("split", "name", "said"),
    [
        ("train", "Glioma", "glioma: differs from 'Glioma' in case or spaces only"),
        ("train", "none ", "none : differs from 'none' in case or spaces only"),
        ("test", "Glioma", "Glioma: train has no such class: rename it to glioma"),
        ("train", os.fsdecode(b"m\xe9l"), "the name of a class must be UTF-8"),
    ],
)
def test_class_folders_that_are_mistakes_are_refused(folder, split, name, said):
    write_image(folder / split / name / "x.png", 0, 999)
    with pytest.raises(ValueError, match=said):
        build(folder)


def test_classes_that_val_or_test_lack_are_noted(folder):
    shutil.rmtree(folder / "test/none")
    for file in sorted((folder / "train/meningioma").iterdir())[1:]:
        file.unlink()
    assert build(folder).notes == ["val holds no image of meningioma", "test holds no image of none"]
    shutil.rmtree(folder / "test")
    assert any("test: holds no image, so what is trained cannot be tested" in note for note in build(folder).notes)


def test_without_two_patients_no_val_is_carved(tmp_path):
    for label, name in enumerate("ab"):
        write_image(tmp_path / "train" / name / "x.png", label, label)
    with pytest.raises(ValueError, match="no class has two patients to carve val from"):
        build(tmp_path, "val")


# The same picture under several names


@pytest.mark.parametrize("decoded_mb", [64, 0])
def test_a_picture_in_train_and_test_is_refused(folder, monkeypatch, decoded_mb):
    monkeypatch.setattr(duplicates, "DECODED_MB", decoded_mb)
    for number in range(2):
        shutil.copy(folder / f"test/glioma/test_glioma_{number}.jpg", folder / f"train/meningioma/copy{number}.jpg")
    said = r"folder: 2 pictures are in two splits, such as train/meningioma/copy0.jpg \((train|val)\) and "
    for split in ("train", "val", "test"):
        with pytest.raises(ValueError, match=said + r"test/glioma/test_glioma_0.jpg \(test\): remove them from one"):
            build(folder, split)


def test_a_copy_in_another_format_is_the_same_picture(folder):
    Image.open(folder / "test/none/test_none_0.png").convert("RGB").save(folder / "train/none/other.bmp")
    with pytest.raises(ValueError, match=r"1 picture is in two splits, such as train/none/other.bmp"):
        build(folder)


def test_copies_within_train_are_noted_and_stay_together(folder):
    for number in range(10):
        shutil.copy(folder / f"train/glioma/train_glioma_{number}.jpg", folder / f"train/none/copy_{number}.jpg")
    splits = {name: build(folder, name, val_fraction=0.3) for name in ("train", "val")}
    for dataset in splits.values():
        cases = {Path(case).name.split("_")[-1] for case in dataset.cases if "copy" in case}
        assert cases == {case.split("_")[-1] for case in dataset.cases if "glioma" in case and "none" not in case}
    count = sum("copy" in case for case in splits["val"].cases)
    assert 0 < count < 10
    assert splits["train"].notes == [
        f"{folder}: {10 - count} pictures are more than once in train, such as {note_pair(splits['train'])}; "
        f"{10 - count} of them in two classes",
        f"{folder}: {count} pictures are more than once in val, such as {note_pair(splits['val'])}; "
        f"{count} of them in two classes",
    ]


def note_pair(dataset) -> str:
    first = min(case for case in dataset.cases if "train_glioma" in case)
    return f"{first} and train/none/copy_{first.split('_')[-1]}"


def test_a_picture_of_two_patients_is_noted_or_refused_where_they_part(folder):
    shutil.copy(folder / "train/none/train_none_0.png", folder / "train/none/zcopy.png")
    rows = [f"{path.relative_to(folder).as_posix()},{path.stem}" for path in folder.rglob("*.*g")]
    (folder / "patients.csv").write_text("\n".join(["image,patient", *rows]))
    said = set()
    for seed in range(12):
        try:
            said |= set(build(folder, patients=str(folder / "patients.csv"), val_fraction=0.4, split_seed=seed).notes)
        except ValueError as error:
            said.add(str(error).partition(" (")[0])
            assert str(error).endswith("give both one patient, or remove one")
    pair = "such as train/none/train_none_0.png and train/none/zcopy.png"
    note = f"{folder}: 1 picture is more than once in train, {pair}; 1 of them in two patients"
    assert note in said
    assert f"{folder}: 1 picture is in two splits, such as train/none/train_none_0.png" in said


def test_only_equal_pictures_are_called_equal(tmp_path):
    first = write_image(tmp_path / "a.png", 0, 0)
    image = np.asarray(Image.open(first)).copy()
    image[3, 5, 1] += 1
    Image.fromarray(image).save(tmp_path / "b.png")
    Image.fromarray(image.transpose(1, 0, 2)).save(tmp_path / "c.png")
    files = [tmp_path / name for name in ("a.png", "b.png", "c.png")]
    assert duplicates.same_pictures(files) == []
    assert duplicates.same_pictures([*files, files[1]]) == [[1, 3]]
