"""scripts/TeachWith.py with our own checkpoints: the maps are what validation sees, and nothing leaks into them."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

from datasets.slices.dataset import SliceDataset
from datasets.slices.soft_codes import decode
from datasets.slices.soft_maps import read_maps
from datasets.slices.transforms import unpad
from tests.conftest import SPLIT
from tests.teachers import checkpoint_of, made_by, teach
from utils.recipe.schema import ROOT
from utils.teaching.mixture import drawn_pixels, mixture_weights
from utils.teaching.teach import Task
from utils.teaching.teacher import Wish, kept
from utils.training import checkpoints


def validated(store, path, case, **data):
    """Probabilities (S, K, H, W) of a case as validation computes them."""
    dataset = SliceDataset(store, "train", task="all", crop=None, augment=(), **data)
    dataset = dataset if case in dataset.cases else SliceDataset(store, "val", task="all", crop=32, **data)
    network = checkpoints.rebuild(checkpoints.load(path))
    samples = [dataset[number] for number in dataset.case_indices()[case]]
    with torch.no_grad():
        logits = network(torch.stack([sample["image"] for sample in samples]))
    return unpad(logits, samples[0]["size"]).softmax(1)[:, 1:].numpy()


@pytest.mark.parametrize("neighbors", [0, 1])
def test_maps_are_the_probabilities_of_validation(slice_store, tmp_path, neighbors, capsys):
    run = checkpoint_of(slice_store, tmp_path / "run/best.ckpt", neighbors=neighbors)
    assert teach(slice_store, tmp_path / "maps", "--checkpoint", run.parent) == 0
    assert "4 of 4 cases to make" in capsys.readouterr().out
    maps = read_maps(tmp_path / "maps")
    assert maps.classes == ("kidney", "tumor") and set(maps.cases) == {*SPLIT["train"], *SPLIT["val"]}
    assert maps.patients == {"0": {"train": SPLIT["train"], "val": SPLIT["val"]}}
    expected = validated(slice_store, run, "case_00003", neighbors=neighbors)
    assert expected.std() > 0.05
    assert np.abs(decode(maps.slices("case_00003")) - expected).max() < 1 / 255
    assert made_by(tmp_path / "maps")[0]["kind"] == "checkpoint"


def test_the_same_command_goes_on_and_keeps_what_is_there(slice_store, tmp_path, capsys):
    run = checkpoint_of(slice_store, tmp_path / "run/best.ckpt")
    assert teach(slice_store, tmp_path / "maps", "--checkpoint", run, "--shard", "0/2") == 0
    assert set(read_maps(tmp_path / "maps").cases) == {"case_00000", "case_00002"}
    before = (tmp_path / "maps/case_00000.npy").stat().st_mtime_ns
    capsys.readouterr()
    assert teach(slice_store, tmp_path / "maps", "--checkpoint", run) == 0
    assert "2 cases made now, 2 kept, 0 bad" in capsys.readouterr().out
    assert (tmp_path / "maps/case_00000.npy").stat().st_mtime_ns == before
    other = checkpoint_of(slice_store, tmp_path / "other.ckpt", seed=1)
    assert teach(slice_store, tmp_path / "maps", "--checkpoint", other) == 2
    assert "choose another folder" in capsys.readouterr().err


def test_a_teacher_that_saw_val_or_test_patients_is_refused(slice_store, tmp_path, capsys):
    split = {"train": [*SPLIT["train"], "case_00004"], "val": ["case_00003"], "test": ["case_00005"]}
    run = checkpoint_of(slice_store, tmp_path / "run.ckpt", split=split)
    assert teach(slice_store, tmp_path / "maps", "--checkpoint", run) == 2
    assert "train patients include 1 of the student's test patients" in capsys.readouterr().err
    assert not (tmp_path / "maps").exists()
    assert teach(slice_store, tmp_path / "maps", "--checkpoint", run, "--allow_leak") == 0


def test_a_teacher_of_other_slices_or_of_changed_cases_is_refused(slice_store, tmp_path, capsys):
    run = checkpoint_of(slice_store, tmp_path / "run.ckpt")
    checkpoint = checkpoints.load(run)
    checkpoint["preprocessing"]["spacing"] = 1.6
    checkpoints.save(checkpoint, tmp_path / "spaced.ckpt")
    assert teach(slice_store, tmp_path / "maps", "--checkpoint", tmp_path / "spaced.ckpt") == 2
    assert "spacing 1.6" in capsys.readouterr().err
    checkpoint["preprocessing"]["spacing"] = None
    checkpoint["data"] = {"cases": {"case_00003": ["other", "labels"]}}
    checkpoints.save(checkpoint, tmp_path / "changed.ckpt")
    assert teach(slice_store, tmp_path / "maps", "--checkpoint", tmp_path / "changed.ckpt") == 2
    assert "images and labels of 1 cases changed (case_00003)" in capsys.readouterr().err


def test_several_teach_their_mean_and_one_class_of_it(slice_store, tmp_path, capsys):
    runs = [checkpoint_of(slice_store, tmp_path / f"{seed}.ckpt", seed) for seed in range(2)]
    assert teach(slice_store, tmp_path / "maps", "--checkpoint", *runs, "--only", "tumor", "--splits", "val") == 0
    expected = np.mean([validated(slice_store, run, "case_00003") for run in runs], 0)[:, 1:]
    maps = read_maps(tmp_path / "maps")
    assert maps.classes == ("tumor",) and maps.cases["case_00003"].teachers == (0, 1)
    assert np.abs(decode(maps.slices("case_00003")) - expected).max() < 1 / 255
    assert teach(slice_store, tmp_path / "other", "--checkpoint", *runs, "--only", "cyst") == 2
    assert "--only cyst" in capsys.readouterr().err


def test_weights_are_chosen_on_val(slice_store, tmp_path, capsys):
    split = {"train": SPLIT["train"], "val": ["elsewhere"], "test": []}
    runs = [checkpoint_of(slice_store, tmp_path / f"{seed}.ckpt", seed, split) for seed in range(2)]
    assert teach(slice_store, tmp_path / "maps", "--checkpoint", *runs, "--weights", "val") == 0
    seen = {"train": SPLIT["train"], "val": [*SPLIT["val"], "elsewhere"]}  # whoever selects has been seen
    assert read_maps(tmp_path / "maps").patients == {"0": seen, "1": seen}
    weights = [each["settings"]["weight"] for each in made_by(tmp_path / "maps")]
    assert sum(weights) == pytest.approx(1) and weights != [0.5, 0.5]
    assert "weights chosen on the val cases" in capsys.readouterr().out
    assert teach(slice_store, tmp_path / "maps", "--checkpoint", *runs) == 2  # other weights are another teacher


def test_the_weights_make_the_true_classes_most_likely():
    certain = np.array([[0.9, 0.3]] * 10)
    assert mixture_weights(certain, np.ones(10)) == pytest.approx([1, 0], abs=1e-6)
    # a share of 3/4 on pixels that only the first knows: its weight is 3/4
    either = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert mixture_weights(either, np.array([3.0, 1.0])) == pytest.approx([0.75, 0.25], abs=1e-4)


def test_pixels_of_every_class_are_drawn_and_no_more_than_there_is_room_for():
    target = np.zeros((2, 100, 100), np.uint8)
    target[0, 0, :3] = 2
    background, none, three = drawn_pixels(target, 3, seed=0)
    assert len(background) == 4000 and len(none) == 0 and three.tolist() == [0, 1, 2]


def test_a_class_named_twice_is_refused(tmp_path):
    assert kept(["a", "b"], ["b"], tmp_path) == [1] and kept(["a", "b"], [], tmp_path) == [0, 1]
    with pytest.raises(ValueError, match="names a class twice"):
        kept(["a", "a"], [], tmp_path)


def test_what_a_worker_is_given_can_travel(tmp_path):
    task = Task(Wish("checkpoint", (tmp_path,), tmp_path, ("train",)), tmp_path, "a", "python")
    assert pickle.loads(pickle.dumps(task)) == task and hash(task.wish)


def test_help_needs_no_torch():
    code = "import sys, runpy; sys.argv = ['TeachWith', '--help']\n"
    code += f"try: runpy.run_path({str(ROOT / 'scripts/TeachWith.py')!r}, run_name='__main__')\n"
    code += "except SystemExit as end: sys.exit(end.code or ('torch' in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
