"""ISIC 2024 in its official format: who is in which split, which negatives are kept, and what is no feature."""

import csv
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from datasets.images.dataset import ImageOptions
from datasets.images.isic import Lesion, deal, isic, read_index, read_lesions, write_index
from datasets.splits import SPLITS
from scripts.skin.SampleISIC import main
from tests.image_stores import write_isic

RATIOS = (0.6, 0.2, 0.2)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_isic(tmp_path_factory.mktemp("isic"))


def many(patients: int = 100, lesions: int = 10) -> list[Lesion]:
    """Every fifth patient has one malignant lesion."""
    return [
        Lesion(f"L{patient:03d}{lesion}", f"P{patient:03d}", int(patient % 5 == 0 and lesion == 0))
        for patient in range(patients)
        for lesion in range(lesions)
    ]


def patients_of(lesions: list[Lesion]) -> dict[str, set[str]]:
    return {name: {lesion.patient for lesion in lesions if lesion.split == name} for name in SPLITS}


# Who is in which split


def test_patients_are_split_by_the_ratios_within_both_strata():
    dealt = deal(many(), RATIOS, None, 5, {}, 0)
    patients = patients_of(dealt)
    assert [len(patients[name]) for name in SPLITS] == [60, 20, 20]
    assert sum(map(len, patients.values())) == len(set.union(*patients.values()))  # no patient twice
    malignant = Counter(lesion.split for lesion in dealt if lesion.target)
    assert malignant == {"train": 12, "val": 4, "test": 4}
    assert [lesion.isic_id for lesion in dealt] == [lesion.isic_id for lesion in many()]


def test_the_split_depends_on_seed_and_names_alone():
    first = deal(many(), RATIOS, None, 5, {"train": 50}, 0)
    lesions = many()
    shuffled = [lesions[number] for number in np.random.default_rng(0).permutation(len(lesions))]
    assert set(deal(shuffled, RATIOS, None, 5, {"train": 50}, 0)) == set(first)
    assert patients_of(deal(many(), RATIOS, None, 5, {}, 1)) != patients_of(first)


def test_all_positives_and_the_asked_negatives_are_kept_and_test_is_whole():
    whole, thinned = (deal(many(), RATIOS, None, 5, kept, 0) for kept in ({}, {"train": 40, "val": 10}))
    # 60, 20, 20 patients of 10 lesions, 12, 4, 4 of them malignant
    assert Counter((lesion.split, lesion.target) for lesion in thinned) == {
        **{("train", 1): 12, ("train", 0): 40, ("val", 1): 4, ("val", 0): 10},
        **{("test", 1): 4, ("test", 0): 196},
    }
    assert set(thinned) < set(whole)
    assert len(deal(many(), RATIOS, None, 5, {"train": 10_000}, 0)) == 1000


def test_the_seed_chooses_the_negatives():
    kept = [{lesion.isic_id for lesion in deal(many(), (1, 0, 0), None, 5, {"train": 40}, seed)} for seed in (0, 0, 1)]
    assert kept[0] == kept[1] != kept[2]


def test_folds_cover_everyone_outside_test_once():
    test = patients_of(deal(many(), RATIOS, None, 5, {}, 0))["test"]
    seen = Counter()
    for fold in range(4):
        patients = patients_of(deal(many(), RATIOS, fold, 4, {}, 0))
        assert patients["test"] == test
        assert len(patients["val"]) == 20 and len(patients["train"]) == 60
        assert not patients["val"] & patients["train"]
        assert sum(int(name[1:]) % 5 == 0 for name in patients["val"]) == 4
        seen.update(patients["val"])
    assert set(seen.values()) == {1} and set(seen) == {lesion.patient for lesion in many()} - test


def test_without_a_test_share_folds_cover_everyone():
    held = [patients_of(deal(many(), (0.8, 0.2, 0), fold, 5, {}, 0))["val"] for fold in range(5)]
    assert len(set.union(*held)) == sum(map(len, held)) == 100


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ratios": (0.5, 0.2, 0.2)}, "ratios .* add up to 1"),
        ({"negatives": {"test": 5}}, "negatives of test: only train and val"),
        ({"negatives": {"train": 0}}, "negatives of train 0"),
        ({"fold": 5}, "fold 5 of 5"),
        ({"fold": 0, "folds": 1}, "fold 0 of 1"),
    ],
)
def test_splits_that_cannot_be_are_refused(change, said):
    arguments = {"ratios": RATIOS, "fold": None, "folds": 5, "negatives": {}, "seed": 0} | change
    with pytest.raises(ValueError, match=said):
        deal(many(), **arguments)


# Images


def test_a_lesion_has_its_own_image_and_target(root):
    targets = {lesion.isic_id: lesion.target for lesion in read_lesions(root)}
    for split in SPLITS:
        dataset = isic(str(root), split, ImageOptions(image_size=32, normalization="none"), ratios=RATIOS)
        assert dataset.class_names == ["benign", "malignant"]
        assert {sample["case"]: int(sample["target"]) for sample in dataset}.items() <= targets.items()
        assert min(dataset.class_counts) > 0
        for sample in dataset:  # the square in the middle is larger in malignant ones: 12 of 24 pixels, not 6
            assert (sample["image"][:, 16, 21].mean() > 0.55) == bool(sample["target"])


def unpacked(root: Path, to: Path) -> Path:
    """The same lesions as a folder of JPEGs."""
    (to / "train-image" / "image").mkdir(parents=True)
    with h5py.File(root / "train-image.hdf5") as store:
        for name in store:
            (to / "train-image" / "image" / f"{name}.jpg").write_bytes(np.asarray(store[name][()]).tobytes())
    (to / "train-metadata.csv").write_bytes((root / "train-metadata.csv").read_bytes())
    return to


def test_a_folder_of_jpegs_is_the_same(root, tmp_path):
    folder = unpacked(root, tmp_path)
    one, other = (isic(str(place), "val", ImageOptions(image_size=32), ratios=RATIOS) for place in (root, folder))
    assert one.cases == other.cases and one.split_sha256 == other.split_sha256
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("kind", [np.void, np.bytes_, lambda data: np.frombuffer(data, np.uint8)])
def test_bytes_are_read_however_the_file_types_them(root, tmp_path, kind):
    (tmp_path / "train-metadata.csv").write_bytes((root / "train-metadata.csv").read_bytes())
    with h5py.File(root / "train-image.hdf5") as store, h5py.File(tmp_path / "train-image.hdf5", "w") as copy:
        for name in store:
            copy[name] = kind(np.asarray(store[name][()]).tobytes())
    one, other = (isic(str(place), "val", ImageOptions(image_size=32), ratios=RATIOS) for place in (root, tmp_path))
    assert torch.equal(one[0]["image"], other[0]["image"])


def test_every_process_opens_the_file_itself(root, monkeypatch):
    dataset = isic(str(root), "train", ImageOptions(image_size=32, cache_mb=0), ratios=RATIOS)
    expected = torch.stack([sample["image"] for sample in dataset])  # open in this process too
    opened = dataset._read._opened
    loader = DataLoader(dataset, batch_size=8, num_workers=2, multiprocessing_context="fork")
    assert torch.equal(torch.cat([batch["image"] for batch in loader]), expected)
    assert dataset._read._opened is opened
    monkeypatch.setattr("os.getpid", lambda: -1)  # as in a fork, which inherits an open file
    assert torch.equal(dataset[0]["image"], expected[0])
    assert dataset._read._opened is not opened


def test_a_damaged_image_is_named(root, tmp_path):
    folder = unpacked(root, tmp_path)
    file = folder / "train-image" / "image" / f"{isic(str(folder), 'val', ratios=RATIOS).cases[0]}.jpg"
    file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(ValueError, match=f"{file.name}: unreadable image"):
        isic(str(folder), "val", ratios=RATIOS)


def test_missing_files_and_images_are_named(root, tmp_path):
    with pytest.raises(ValueError, match=r"train-metadata.csv: cannot be read"):
        isic(str(tmp_path), "train")
    (tmp_path / "train-metadata.csv").write_bytes((root / "train-metadata.csv").read_bytes())
    with pytest.raises(ValueError, match=r"neither train-image.hdf5 nor train-image/image"):
        isic(str(tmp_path), "train")
    (tmp_path / "train-image.hdf5").write_bytes(b"no HDF5")
    with pytest.raises(ValueError, match=r"train-image.hdf5: no HDF5 file"):
        isic(str(tmp_path), "train")
    with h5py.File(tmp_path / "train-image.hdf5", "w") as store:
        store["ISIC_0000000"] = 0
    with pytest.raises(ValueError, match=r"24 of 24 images are missing, such as ISIC_") as caught:
        isic(str(tmp_path), "val", ratios=RATIOS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([["isic_id", "target"], ["a", "0"]], "has no column patient_id"),
        ([["isic_id", "target", "patient_id"], ["a", "", "p"]], "target of a is ''"),
        ([["isic_id", "target", "patient_id"], ["a", "0", "p"], ["a", "0", "p"]], "a is named twice"),
        ([["isic_id", "target", "patient_id"], ["a", "0"]], "cannot be read"),
    ],
)
def test_other_metadata_is_refused(tmp_path, rows, said):
    with (tmp_path / "train-metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    with pytest.raises(ValueError, match=said):
        read_lesions(tmp_path)


# The index


def test_the_index_gives_the_same_dataset_as_its_settings(root, tmp_path):
    file = tmp_path / "new" / "index.csv"
    settings = ["--ratios", "0.6", "0.2", "0.2", "--train_negatives", "15", "--val_negatives", "0", "--seed", "3"]
    assert main(["--root", str(root), "--out", str(file), *settings]) == 0
    assert file.read_text().splitlines()[0] == "isic_id,patient_id,target,split"
    assert [path.name for path in file.parent.iterdir()] == ["index.csv"]
    for split in SPLITS:
        one = isic(str(root), split, ImageOptions(image_size=32), ratios=RATIOS, negatives={"train": 15}, split_seed=3)
        other = isic(str(root), split, ImageOptions(image_size=32), index=str(file))
        assert (one.cases, one.split_sha256, one.class_counts) == (other.cases, other.split_sha256, other.class_counts)
    (tmp_path / "other").mkdir()
    folder = unpacked(root, tmp_path / "other")
    (folder / "train-metadata.csv").unlink()  # the index is enough
    assert len(isic(str(folder), "train", ImageOptions(image_size=32), index=str(file))) == 15 + 6


def test_the_summary_tells_counts_and_prevalence(root, tmp_path, capsys):
    command = ["--root", str(root), "--out", str(tmp_path / "index.csv"), "--ratios", "0.6", "0.2", "0.2"]
    assert main([*command, "--train_negatives", "18"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1] == ["all", "20", "110", "10", "8.333%"]
    assert lines[2][0] == "train" and lines[2][2:] == ["18", "6", "25.000%"]  # 6 of 24
    assert lines[4] == ["test", "4", "22", "2", "8.333%"]


def test_an_index_is_not_overwritten_unasked(root, tmp_path, capsys):
    file = tmp_path / "index.csv"
    command = ["--root", str(root), "--out", str(file)]
    assert main(command) == 0
    before = file.read_bytes()
    assert main([*command, "--seed", "1"]) == 2
    assert "--overwrite" in capsys.readouterr().err and file.read_bytes() == before
    assert main([*command, "--seed", "1", "--overwrite"]) == 0
    assert file.read_bytes() != before


def test_the_index_folds_like_the_dataset(root, tmp_path):
    command = ["--root", str(root), "--out", str(tmp_path / "index.csv"), "--fold", "1", "--folds", "3"]
    assert main(command) == 0
    assert patients_of(read_index(tmp_path / "index.csv"))["val"] == set(
        isic(str(root), "val", ImageOptions(image_size=32), fold=1, folds=3).patients
    )


@pytest.mark.parametrize(
    ("lesions", "said"),
    [
        ([Lesion("a", "p", 0, "train"), Lesion("b", "p", 0, "test")], "patient p is in train and test"),
        ([Lesion("a", "p", 0, "training")], "'training'"),
        ([Lesion("a", "p", 0, "train"), Lesion("a", "p", 0, "train")], "a is named twice"),
    ],
)
def test_an_index_that_leaks_is_refused(root, tmp_path, lesions, said):
    write_index(tmp_path / "index.csv", lesions)
    with pytest.raises(ValueError, match=said):
        isic(str(root), "train", index=str(tmp_path / "index.csv"))


def test_an_index_says_it_all_and_its_images_must_be_there(root, tmp_path):
    file = tmp_path / "index.csv"
    write_index(file, [Lesion("ISIC_0000000", "p", 1, "train"), Lesion("ISIC_9999999", "q", 0, "train")])
    with pytest.raises(ValueError, match=r"1 of 2 images are missing, such as ISIC_9999999"):
        isic(str(root), "train", index=str(file))
    with pytest.raises(ValueError, match="already says who is where"):
        isic(str(root), "train", index=str(file), negatives={"train": 5})
