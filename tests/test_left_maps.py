"""What the channels of files that other programs left mean, when they are read again, and how little lies in memory."""

import json
import pickle
import tracemalloc

import numpy as np
import pytest
from test_teach_maps import CASES, NAMES, SHAPE, answered, chances, close, geometry_of, turned

from datasets.slices.soft_maps import read_maps
from datasets.splits import SPLITS
from tests.raw_cases import KITS, hounsfield, kits_case, label_of, make, save
from utils.teaching.left_maps import LeftMaps
from utils.teaching.meaning import Meaning, meaning_of
from utils.teaching.store import read_store
from utils.teaching.teacher import Wish


@pytest.fixture
def store(tmp_path, capsys):
    for number in range(3):
        kits_case(tmp_path / "raw", number, image=hounsfield(number, SHAPE), label=label_of(SHAPE))
    assert make(tmp_path / "raw", tmp_path / "store") == 0
    capsys.readouterr()
    return tmp_path / "store"


def saved(left, case, probabilities):
    """What nnUNetv2_predict saves of a case: (K + 1, i, j, k)."""
    np.savez(left / f"{case}.npz", probabilities=probabilities.transpose(0, 3, 2, 1))
    (left / f"{case}.pkl").write_bytes(pickle.dumps({"nibabel_stuff": {"original_affine": KITS}}))


def test_no_channel_is_taken_for_that_of_nnunets_ignore_label(store, left, tmp_path, capsys):
    saved(left, CASES[0], chances())
    labels = {"background": 0, "kidney": 1, "tumor": 2, "ignore": 3}
    (left / "dataset.json").write_text(json.dumps({"labels": labels}))
    assert answered(store, left, tmp_path / "maps") == 0
    assert read_maps(tmp_path / "maps").classes == ("kidney", "tumor")
    assert close(store, tmp_path / "maps", CASES[0], turned(chances()[1:], geometry_of(store, CASES[0])))
    saved(left, CASES[0], chances(classes=2))  # never without background
    assert answered(store, left, tmp_path / "others", *NAMES) == 1
    assert "has 2 channels, not background and 2 classes" in capsys.readouterr().out


def test_regions_within_one_another_become_classes(store, left, tmp_path):
    """A sigmoid each, and no background: a class is its region less those within it."""
    whole, core = np.float32([0.9, 0.7]), np.float32([0.2, 0.8])  # at two kinds of voxels; the second contradicts
    kinds = np.random.default_rng(0).integers(0, 2, SHAPE)
    saved(left, CASES[0], np.stack([whole[kinds], core[kinds]]))
    save(left / f"{CASES[1]}.nii.gz", label_of(SHAPE))
    labels = {"background": 0, "kidney": [1, 2], "tumor": 2, "ignore": 3}
    (left / "dataset.json").write_text(json.dumps({"labels": labels, "regions_class_order": [1, 2]}))
    assert answered(store, left, tmp_path / "maps") == 0
    assert read_maps(tmp_path / "maps").classes == ("kidney", "tumor")
    expected = np.stack([np.float32([0.7, 0])[kinds], core[kinds]])
    assert close(store, tmp_path / "maps", CASES[0], turned(expected, geometry_of(store, CASES[0])))
    expected = np.stack([label_of(SHAPE) == value for value in (1, 2)])
    assert close(store, tmp_path / "maps", CASES[1], turned(expected, geometry_of(store, CASES[1])))


def test_which_regions_part_the_pixels(tmp_path):
    def meaning(**labels):
        (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"background": 0, **labels}}))
        return meaning_of(tmp_path)

    assert meaning(masses=[2, 3], kidney=[1, 2, 3], tumor=[2]) == Meaning(
        ("kidney", "tumor", "masses"), (1, 2, 3), (1, 2, 0), ((0,), (), (2,)), 3
    )
    halves = meaning(whole=[1, 2], left=1, right=2)  # nothing of the whole is in neither
    assert halves.names == ("left", "right") and halves.own == (1, 2)
    two = meaning(a=[1, 2], a_core=2, b=[3, 4], b_core=4)
    sure = [np.full(1, each) for each in (0.9, 0.6, 0.9, 0.0)]  # 1.8 together
    found = list(two.classes(range(4), lambda wanted: [sure[number] for number in wanted]))
    assert np.concatenate(found) == pytest.approx([0.3 / 1.8, 0.6 / 1.8, 0.9 / 1.8, 0])
    with pytest.raises(ValueError, match="regions a and b overlap and neither lies within the other"):
        meaning(a=[1, 2], b=[2, 3])
    with pytest.raises(ValueError, match=r"of its region a the values \[1, 3\] are in no smaller one"):
        meaning(a=[1, 2, 3], b=2)


@pytest.mark.parametrize("kind", ["labels", "npz", "volumes"])
def test_one_class_of_many_lies_in_memory(tmp_path, left, kind):
    shape, count = (8, 40, 40), 40
    for number in range(3):
        kits_case(tmp_path / "raw", number, image=hounsfield(number, shape), label=label_of(shape))
    assert make(tmp_path / "raw", tmp_path / "store") == 0
    labels = np.arange(np.prod(shape)).reshape(shape) % (count + 1)
    if kind == "labels":
        save(left / f"{CASES[0]}.nii.gz", labels.astype(np.uint8))
    else:
        probabilities = np.zeros((count + 1, *shape), np.float32)
        np.put_along_axis(probabilities, labels[None], 1, 0)
        if kind == "npz":
            saved(left, CASES[0], probabilities)
        else:
            save(left / f"{CASES[0]}.nii.gz", np.moveaxis(probabilities, 0, -1))
    names = tuple(map(str, range(1, count + 1)))
    store = read_store(tmp_path / "store", SPLITS)
    case = store.cases[0]
    teacher = LeftMaps(Wish("maps", (left,), store.root, ("train",), classes=names), store)
    tracemalloc.start()
    try:
        for number, each in enumerate(teacher.answer(case)[0], start=1):
            assert each.dtype == np.float32 and each.sum() == np.count_nonzero(labels == number)
        assert number == count and tracemalloc.get_traced_memory()[1] < count * labels.size * 4
    finally:
        tracemalloc.stop()


def test_a_file_that_was_replaced_is_read_again(store, left, tmp_path, capsys):
    for number, case in enumerate(CASES[:2]):
        saved(left, case, chances(seed=number))
    assert answered(store, left, tmp_path / "maps", *NAMES) == 0
    assert answered(store, left, tmp_path / "maps", *NAMES) == 0
    assert "0 cases made now, 2 kept" in capsys.readouterr().out
    saved(left, CASES[0], chances(seed=2))
    assert answered(store, left, tmp_path / "maps", *NAMES) == 0
    assert "1 cases made now, 1 kept" in capsys.readouterr().out
    assert close(store, tmp_path / "maps", CASES[0], turned(chances(seed=2)[1:], geometry_of(store, CASES[0])))
