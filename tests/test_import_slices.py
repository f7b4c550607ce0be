"""Slices that are PNG already become a store that training reads."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from datasets.slices.dataset import SliceDataset
from datasets.slices.store import read_index, read_slice
from scripts.ImportSlices import main


@pytest.fixture
def folder(tmp_path):
    """Five cases of three 40x48 slices, gray values 0 to 255, masks 0 and 255."""
    for kind in ("images", "masks"):
        (tmp_path / "raw" / kind).mkdir(parents=True)
    random = np.random.default_rng(0)
    for case in range(5):
        for number in (7, 8, 30):
            image = random.integers(0, 256, (40, 48)).astype(np.uint8)
            image[0, 0], image[0, 1] = 0, 255
            mask = np.zeros((40, 48), np.uint8)
            mask[10:20, 10:30] = 255
            Image.fromarray(image).save(tmp_path / f"raw/images/p_{case}_{number}.png")
            Image.fromarray(mask).save(tmp_path / f"raw/masks/p_{case}_{number}.png")
    return tmp_path / "raw"


def run(folder, *flags):
    return main(["--inpath", str(folder), "--outpath", str(folder.parent / "store"), "--labels", "liver", *flags])


def test_gray_values_become_hounsfield_units_and_masks_labels(folder):
    assert run(folder, "--hounsfield", "-100", "155", "--split", "0.6", "0.2", "0.2") == 0
    records = read_index(folder.parent / "store")
    assert len(records) == 15 and {record.split for record in records} == {"train", "val", "test"}
    assert {record.labels for record in records} == {(1,)}
    image, label = read_slice(records[0].path)
    assert image.dtype == np.int16 and image[0, 0] == -100 and image[0, 1] == 155  # 0 and 255 of 255 gray values
    assert label.sum() == 200 and label.max() == 1
    sources = json.loads((folder.parent / f"store/{records[0].case}/case.json").read_text())["sources"]
    assert sources == ["p_0_7.png", "p_0_8.png", "p_0_30.png"]  # by number, not by name


def test_what_a_stopped_import_left_is_no_obstacle(folder):
    (folder.parent / ".store.partial/p_0").mkdir(parents=True)
    (folder.parent / ".store.partial/p_9").mkdir()
    assert run(folder) == 0
    assert not (folder.parent / ".store.partial").exists() and not (folder.parent / "store/p_9").exists()


def test_patients_stay_in_one_split_and_training_reads_them(folder):
    assert run(folder, "--hounsfield", "0", "255", "--split", "0.6", "0.2", "0.2") == 0
    splits = [SliceDataset(folder.parent / "store", split, crop=32) for split in ("train", "val", "test")]
    assert [len(dataset.cases) for dataset in splits] == [3, 1, 1]
    assert len({case for dataset in splits for case in dataset.cases}) == 5
    assert splits[0].class_names == ["liver"] and splits[0][0]["image"].shape == (1, 32, 32)


def test_statistics_are_of_the_whole_case(folder):
    assert run(folder, "--hounsfield", "0", "255") == 0
    records = [record for record in read_index(folder.parent / "store") if record.case == "p_1"]
    whole = np.concatenate([read_slice(record.path)[0].ravel() for record in records])
    assert records[0].mean == pytest.approx(whole.mean()) and records[2].std == pytest.approx(whole.std())


def test_a_bad_slice_is_told_and_the_rest_is_imported(folder, capsys):
    (folder / "images/p_0_7.png").write_bytes(b"no picture")
    (folder / "masks/p_1_8.png").unlink()
    Image.new("RGB", (48, 40)).save(folder / "images/p_2_30.png")
    (folder / "images/odd.png").write_bytes(b"")
    assert run(folder, "--hounsfield", "0", "255") == 1
    lines = capsys.readouterr().out
    for name in ("p_0_7.png", "p_1_8.png", "p_2_30.png", "odd.png"):
        assert name in lines
    assert len(read_index(folder.parent / "store")) == 12


def test_a_store_that_is_there_is_left_alone(folder, capsys):
    assert run(folder) == 0
    before = (folder.parent / "store/index.csv").read_bytes()
    assert run(folder) == 2
    assert "is there already" in capsys.readouterr().err
    assert (folder.parent / "store/index.csv").read_bytes() == before
    assert json.loads((folder.parent / "store/dataset.json").read_text())["modality"] == "MR"  # no --hounsfield


def test_slices_are_resampled_to_the_size_that_is_asked(folder):
    assert run(folder, "--hounsfield", "0", "255", "--size", "8") == 0
    record = read_index(folder.parent / "store")[0]
    image, label = read_slice(record.path)
    assert image.shape == label.shape == (8, 8) and set(np.unique(label)) == {0, 1}
    original = np.asarray(Image.open(folder / f"images/{record.case}_7.png"), np.float64)
    assert image.mean() == pytest.approx(original.mean(), abs=0.5)  # areas are averaged, not picked
    assert image.std() < original.std() / 2  # noise averaged over 5 x 6 pixels
    assert label.mean() == pytest.approx(200 / 1920, abs=0.06)


def test_a_size_of_nothing_is_refused(folder, capsys):
    assert run(folder, "--size", "0") == 2
    assert "--size 0: give at least 1 pixel" in capsys.readouterr().err


def test_files_from_a_mac_in_capitals_and_of_other_kinds(folder, capsys):
    for name in ("p_0_7", "p_1_8"):
        (folder / f"images/{name}.png").rename(folder / f"images/{name}.PNG")
    for kind in ("images", "masks"):
        (folder / kind / "._p_0_8.png").write_bytes(b"\x00\x05\x16\x07")
        (folder / kind / "deeper").mkdir()
    (folder / "images/p_9_1.jpg").write_bytes(b"")
    (folder / "images/p_4_7.png").unlink()
    (folder / "images/p_4_7.png").symlink_to("nowhere.png")
    (folder / "masks/p_3_7.PNG").write_bytes((folder / "masks/p_3_7.png").read_bytes())
    for kind in ("images", "masks"):
        (folder / kind / "p_2_08.png").write_bytes((folder / kind / "p_2_8.png").read_bytes())
    assert run(folder, "--hounsfield", "0", "255") == 1
    shown = capsys.readouterr()
    remedy = "fetch its content (git annex get, datalad get), or remove the link"
    assert shown.out.splitlines()[:3] == [
        f"{folder}/images/p_4_7.png: is a link to nowhere.png, which is not there: {remedy}",
        f"{folder}/images/p_2_8.png: is slice 8 of p_2, as is {folder}/images/p_2_08.png: keep one",
        f"{folder}/masks/p_3_7.png: is there in another spelling of its ending: keep one of them",
    ]
    assert shown.err.splitlines() == [
        f"{folder}/images: passed over: 1 by hidden name (._p_0_8.png), 1 by depth (deeper), 1 by ending (1 .jpg)",
        f"{folder}/masks: passed over: 1 by hidden name (._p_0_8.png), 1 by depth (deeper)",
    ]
    records = read_index(folder.parent / "store")
    assert len(records) == 13 and {record.case for record in records} == {f"p_{case}" for case in range(5)}


def test_names_that_are_not_utf8_and_folds_of_nnunet(folder, capsys):
    name = os.fsdecode(b"M\xfcller")
    for file in folder.rglob("p_0_*.png"):
        file.rename(file.with_name(file.name.replace("p_0", name)))
    folds = [{"train": ["p_1", "p_2", "p_3"], "val": ["p_4", name]}]
    (folder.parent / "splits_final.json").write_text(json.dumps(folds))
    assert run(folder, "--split_file", str(folder.parent / "splits_final.json")) == 0
    assert "fold 0 of 0 to 0 is used" in capsys.readouterr().err
    records = read_index(folder.parent / "store")
    assert {record.case for record in records if record.split == "val"} == {"p_4", name}
    assert all(record.path.is_file() for record in records)


def test_a_folder_without_images_is_named(folder, capsys):
    (folder / "images").rename(folder / "pictures")
    assert run(folder) == 2
    assert capsys.readouterr().err == f"ImportSlices: {folder}/images: No such file or directory: check the path\n"


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_an_image_that_cannot_be_read_is_one_line_with_its_file(folder, capsys, content):
    file = folder / "masks/p_1_8.png"
    file.write_bytes(file.read_bytes()[:60] if content is None else content)
    assert run(folder) == 1
    (line,) = capsys.readouterr().out.splitlines()[:-3]
    assert line.startswith(f"{file}: unreadable image (") and line.endswith("): restore it, or remove it")
    assert len(read_index(folder.parent / "store")) == 14


@pytest.mark.parametrize("values", [("255", "0"), ("nan", "1"), ("0", "inf"), ("-100000", "100000")])
def test_hounsfield_units_that_cannot_be_stored_are_refused(folder, capsys, values):
    assert run(folder, "--hounsfield", *values) == 2
    assert "give the lower value first, within -32768 to 32767" in capsys.readouterr().err
    assert not (folder.parent / "store").exists()


def test_a_dead_link_is_not_replaced_and_equal_names_are_refused(folder, capsys):
    (folder.parent / "store").symlink_to("nowhere")
    assert run(folder) == 2
    assert "store: is there already" in capsys.readouterr().err
    assert sorted(path.name for path in folder.parent.iterdir()) == ["raw", "store"]
    main(["--inpath", str(folder), "--outpath", str(folder.parent / "new"), "--labels", "liver", "liver"])
    assert "--labels liver liver: give every label a name of its own" in capsys.readouterr().err
