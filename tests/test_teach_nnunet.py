"""scripts/TeachWith.py --nnunet: folds that did not see a case teach it; the network itself where nnunetv2 is there."""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from datasets.slices.soft_codes import decode
from datasets.slices.soft_maps import read_maps
from tests.raw_cases import hounsfield, kits_case, label_of, make
from tests.teachers import checkpoint_of, made_by, teach
from utils.teaching.checkpoint import CheckpointTeacher
from utils.teaching.folds import Fold, find_splits, read_folds, split_of, taught_by
from utils.teaching.nnunet import NnUNetTeacher
from utils.teaching.store import read_store
from utils.teaching.teacher import Wish

needs_nnunet = pytest.mark.skipif(find_spec("nnunetv2") is None, reason="nnunetv2 is not installed")
PATIENTS = {"a_1": "a", "a_2": "a", "b_1": "b", "c_1": "c"}
DATASET = "Dataset004_Kidney"
SHAPE = (8, 32, 32)


def written(folder, *folds):
    path = folder / "splits_final.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([{"train": train, "val": val} for train, val in folds]))
    return path


def test_a_case_is_taught_by_the_folds_that_did_not_see_its_patient(tmp_path):
    file = written(tmp_path, (["a_1", "x"], ["b_1"]), (["b_1.nii.gz", "x"], ["a_1"]))
    folds = read_folds(file, ["0", "1"], PATIENTS)
    assert folds[0] == Fold("0", frozenset({"a", "x"}), frozenset({"b"}))
    # the other scan of a patient counts as seen, a patient that nnU-Net does not know is taught by all
    expected = {"a_1": (1,), "a_2": (1,), "b_1": (0,), "c_1": (0, 1)}
    assert taught_by(PATIENTS, folds) == expected
    assert split_of(folds) == {"train": ["a", "b", "x"], "val": []}


def test_a_case_that_is_named_by_its_image_is_known(tmp_path):
    file = written(tmp_path, (["a", "b_0000"], ["c"]))
    (fold,) = read_folds(file, ["0"], {"a_0000": "a_0000", "b_0000": "b_0000", "c_0000": "patient"})
    assert fold == Fold("0", frozenset({"a_0000", "b_0000"}), frozenset({"patient"}))


def test_a_case_that_every_fold_saw_is_taught_by_all(tmp_path):
    folds = read_folds(written(tmp_path, (["a_1"], ["b_1"]), (["a_1", "b_1"], [])), ["0", "1"], PATIENTS)
    assert taught_by(PATIENTS, folds) == {"a_1": (0, 1), "a_2": (0, 1), "b_1": (0,), "c_1": (0, 1)}
    (whole,) = read_folds(tmp_path / "splits_final.json", ["all"], PATIENTS)
    assert whole == Fold("all", frozenset({"a", "b"}), frozenset())


def test_a_patient_of_train_and_val_was_learned_from(tmp_path):
    (fold,) = read_folds(written(tmp_path, (["a_1"], ["a_2", "b_1"])), ["0"], PATIENTS)
    assert fold == Fold("0", frozenset("a"), frozenset("b"))


@pytest.mark.parametrize("content", ['{"train": []}', '[{"val": []}]'])
def test_what_is_no_list_of_folds_is_refused(tmp_path, content):
    (tmp_path / "splits_final.json").write_text(content)
    with pytest.raises(ValueError, match="is no list of folds"):
        read_folds(tmp_path / "splits_final.json", ["0"], {})
    with pytest.raises(ValueError, match="holds folds 0 to 0, not 3"):
        read_folds(written(tmp_path, ([], [])), ["3"], {})


def test_the_splits_are_found_where_nnunet_keeps_them(tmp_path, monkeypatch):
    monkeypatch.delenv("nnUNet_preprocessed", raising=False)
    folder = tmp_path / "nnUNet_results" / DATASET / "nnUNetTrainer__nnUNetPlans__2d"
    assert find_splits(folder, DATASET, None) is None
    beside = written(tmp_path / "nnUNet_preprocessed" / DATASET, ([], []))
    assert find_splits(folder, DATASET, None) == beside
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "elsewhere"))
    there = written(tmp_path / "elsewhere" / DATASET, ([], []))
    assert find_splits(folder, DATASET, None) == there
    with pytest.raises(ValueError, match="no such file"):
        find_splits(folder, DATASET, tmp_path / "missing.json")


@pytest.fixture
def store(tmp_path, capsys):
    for number in range(4):
        kits_case(tmp_path / "raw", number, image=hounsfield(number, SHAPE), label=label_of(SHAPE))
    split = {"train": ["case_00000", "case_00001"], "val": ["case_00002"], "test": ["case_00003"]}
    (tmp_path / "split.json").write_text(json.dumps(split))
    assert make(tmp_path / "raw", tmp_path / "store", "--split_file", str(tmp_path / "split.json")) == 0
    capsys.readouterr()
    return tmp_path / "store"


def model_folder(tmp_path, **changes) -> Path:
    """A model folder of nnU-Net without networks in its checkpoints."""
    folder = tmp_path / "nnUNet_results" / DATASET / "nnUNetTrainer__nnUNetPlans__2d"
    for fold in range(2):
        (folder / f"fold_{fold}").mkdir(parents=True, exist_ok=True)
        (folder / f"fold_{fold}/checkpoint_final.pth").write_bytes(bytes([fold]))
    labels = {"background": 0, "kidney": 1, "tumor": 2}
    dataset = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 2, "file_ending": ".nii.gz"}
    plans = {"dataset_name": DATASET, "image_reader_writer": "SimpleITKIO"}
    (folder / "dataset.json").write_text(json.dumps({**dataset, **changes}))
    (folder / "plans.json").write_text(json.dumps({**plans, **changes}))
    return folder


def test_folders_that_cannot_or_must_not_teach_are_refused(store, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("nnUNet_preprocessed", raising=False)

    def refused(folder, *flags):
        assert teach(store, tmp_path / "maps", "--nnunet", folder, *flags) == 2
        return capsys.readouterr().err

    (tmp_path / "empty").mkdir()
    assert "has no plans.json" in refused(tmp_path / "empty")
    assert "takes 2 channels" in refused(model_folder(tmp_path, channel_names={"0": "T1", "1": "T2"}))
    assert "whose axes are not known" in refused(model_folder(tmp_path, image_reader_writer="Tiff3DIO"))
    assert "has no fold_4/checkpoint_final.pth" in refused(model_folder(tmp_path), "--folds", "4")
    assert "no splits_final.json is found" in refused(model_folder(tmp_path))
    file = written(
        tmp_path / "splits", (["case_00000", "case_00003"], ["case_00001"]), (["case_00001"], ["case_00000"])
    )
    flags = ("--splits_final", file)
    assert "train patients include 1 of the student's test patients" in refused(model_folder(tmp_path), *flags)
    written(tmp_path / "splits", (["case_00000"], ["case_00001"]), (["case_00001"], ["case_00000"]))
    second = {"2d": {"inherits_from": "cascade"}, "cascade": {"previous_stage": "3d_lowres"}}
    assert "needs what 3d_lowres predicts" in refused(model_folder(tmp_path, configurations=second), *flags)
    if find_spec("nnunetv2") is None:
        assert "pip install 'nnunetv2>=2.5,<3'" in refused(model_folder(tmp_path), *flags)


class Stub:
    """In place of nnU-Net's predictor: its answer is the image, scaled, and which weights were asked."""

    def __init__(self):
        self.list_of_parameters, self.spacing = [0.25, 0.5], None

    def predict_single_npy_array(self, image, properties, previous, file, save_or_return_probabilities):
        self.spacing = properties["spacing"]
        share = np.clip((image[0] + 1000) / 2500, 0, 1) * np.mean(self.list_of_parameters)
        return None, np.stack([1 - share, share, 0 * share])


def test_images_go_to_nnunet_in_its_order_and_its_answers_come_back(store, tmp_path, monkeypatch):
    stub = Stub()
    monkeypatch.setattr("utils.teaching.nnunet._predictor", lambda *arguments: stub)
    file = written(tmp_path / "splits", (["case_00000"], ["case_00001"]), (["case_00001"], ["case_00000"]))
    flags = ("--nnunet", model_folder(tmp_path), "--splits_final", file, "--no_mirror", "--only", "kidney")
    assert teach(store, tmp_path / "maps", *flags) == 0
    maps = read_maps(tmp_path / "maps")
    assert stub.spacing == [0.8, 0.8, 2.5]  # z, y, x of a file whose first axis is of slices
    assert {case: known.teachers for case, known in maps.cases.items()} == {
        "case_00000": (1,),
        "case_00001": (0,),
        "case_00002": (0, 1),
    }
    assert [each["settings"] for each in made_by(tmp_path / "maps")] == [
        {"fold": "0", "mirror": False},
        {"fold": "1", "mirror": False},
    ]
    assert maps.patients["1"] == {"train": ["case_00001"], "val": ["case_00000"]}
    image = np.stack([np.load(store / f"case_00000/{number:04d}.npz")["image"] for number in range(SHAPE[0])])
    found = decode(maps.slices("case_00000"))[:, 0]
    assert np.abs(found - 0.5 * np.clip((image + 1000) / 2500, 0, 1)).max() < 1 / 255


def test_folds_that_name_no_case_of_the_store_are_not_known(store, tmp_path, monkeypatch):
    monkeypatch.setattr("utils.teaching.nnunet._predictor", lambda *arguments: Stub())
    file = written(tmp_path, (["a"], ["b"]))
    wish = Wish("nnunet", (model_folder(tmp_path),), store, ("train",), splits_final=file, folds=("0",))
    teacher = NnUNetTeacher(wish, read_store(store, ("train",)))
    assert teacher.patients == {"0": None} and set(teacher.taught_by.values()) == {(0,)}
    assert "names none of the store's cases" in teacher.notes[0] and "--allow_leak" in teacher.notes[0]


def test_folds_and_checkpoints_teach_what_they_learned_from_and_say_so(store, tmp_path, monkeypatch):
    """As by our own checkpoints: only val and test are guarded."""
    monkeypatch.setattr("utils.teaching.nnunet._predictor", lambda *arguments: Stub())
    file = written(tmp_path, (["case_00000", "case_00001"], []))
    wish = Wish("nnunet", (model_folder(tmp_path),), store, ("train",), splits_final=file, folds=("0",))
    teacher = NnUNetTeacher(wish, cases := read_store(store, ("train",)))
    assert teacher.notes[-1].startswith("2 cases (case_00000, case_00001) are answered by what learned from them")
    split = {"train": ["case_00000"], "val": ["case_00002"], "test": []}
    run = checkpoint_of(store, tmp_path / "run.ckpt", split=split)
    teacher = CheckpointTeacher(Wish("checkpoint", (run,), store, ("train",)), cases)
    assert teacher.notes[-1].startswith("1 cases (case_00000) are answered")


@needs_nnunet
def test_the_predictor_is_that_of_nnunet():
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    names = nnUNetPredictor.predict_single_npy_array.__code__.co_varnames
    assert "save_or_return_probabilities" in names
