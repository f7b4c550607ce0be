"""Scores of a network of a spacing in mm: test on the sources' own grids, the same from every command."""

import json

import numpy as np
import pytest

from datasets.slices.dataset import SliceDataset
from scripts.evaluate import main as evaluate
from tests.raw_cases import kits_case, make
from tests.tiny_checkpoints import labels_of, predict, scan, thresholds
from utils.experiment.run import main as train
from utils.recipe.command_line import parse
from utils.recipe.schema import ROOT, Recipe
from utils.report.latency import volume_of
from utils.runs.groups import Group
from utils.runs.splits import predict_cases
from utils.training import checkpoints

__all__ = ["thresholds"]  # a fixture
COARSE, NATIVE = "1.7 mm in-plane, slabs of 5 mm", "each volume's own spacing"
STORES = [("store", COARSE, NATIVE), ("native", NATIVE, COARSE)]


@pytest.fixture
def run(tmp_path, thresholds):
    """A run on slabs of 5 mm at 1.7 mm, whose network finds the labels of the images it sees; raw volumes beside it."""
    for number in range(4):
        image = scan(number)[: 9 - number]
        kits_case(tmp_path / "raw", number, image=image, label=labels_of(image))
    flags = ("--task", "all", "--split", "0.25", "0.25", "0.5")
    assert make(tmp_path / "raw", tmp_path / "native", *flags) == 0
    assert make(tmp_path / "raw", tmp_path / "store", *flags, "--spacing", "1.7", "--slice_spacing", "5") == 0
    val = SliceDataset(tmp_path / "store", "val", crop=32)
    recipe = {
        "seed": 0,
        "data": {"name": "slices", "root": str(tmp_path / "store"), "task": "all", "crop": 32},
        "training": {"accelerator": "cpu", "precision": "32-true", "batch_size": 3, "channels_last": False},
    }
    split = json.loads((tmp_path / "store" / "split.json").read_text())
    content = checkpoints.load(thresholds) | {
        "preprocessing": val.preprocessing,
        "split": {name: split[name] for name in ("train", "val", "test")} | {"sha256": val.split_sha256},
        "recipe": recipe,
    }
    (tmp_path / "run").mkdir()
    checkpoints.save(content, tmp_path / "run" / "best.ckpt")
    return tmp_path


def scores_of(rows: list[dict]) -> dict[tuple[str, str], float]:
    return {(row["case"], row["class"]): row["dice"] for row in rows}


def test_all_commands_score_on_the_grid_of_the_source_and_agree(run, capsys):
    flags = [f"--config={ROOT / 'configs/kits19_teacher.yaml'}", "--mode=test", f"--output={run / 'run'}"]
    flags += [f"--data.root={run / 'store'}", "--training.batch_size=3", "--training.precision=32-true"]
    assert train(parse(Recipe, "test", flags)) == 0
    assert "2 cases, on the grids of their sources" in capsys.readouterr().out
    tested = scores_of(json.loads((run / "run" / "test.json").read_text())["rows"])
    assert evaluate(["--checkpoint", str(run / "run"), "--split", "test", "--jobs", "1"]) == 0
    assert "scored on the grids of the sources" in capsys.readouterr().out
    assert predict(run / "run", run / "raw", run / "out") == 0
    labels = ["--predictions", str(run / "out"), "--labels", str(run / "raw"), "--output", str(run / "files")]
    assert evaluate([*labels, "--jobs", "1"]) == 0
    files = json.loads((run / "files.json").read_text())["rows"]
    assert len(tested) == 4 and all(0.2 < score < 0.9 for score in tested.values())
    assert scores_of(json.loads((run / "run" / "best_test_scores.json").read_text())["rows"]) == pytest.approx(tested)
    assert {place: score for place, score in scores_of(files).items() if place in tested} == pytest.approx(tested)


@pytest.mark.parametrize(("store", "here", "wanted"), STORES)
def test_a_checkpoint_is_not_scored_on_a_store_of_another_spacing(run, capsys, store, here, wanted):
    checkpoint, other = checkpoints.load(run / "run"), {"store": "native", "native": "store"}[store]
    preprocessing = SliceDataset(run / other, "test", crop=32).preprocessing
    checkpoints.save(checkpoint | {"preprocessing": preprocessing}, run / "run" / "best.ckpt")
    flags = ["--checkpoint", str(run / "run"), "--split", "test", "--jobs", "1", "--data"]
    assert evaluate([*flags, str(run / store)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"{run / store}: has slices of {here}, but" in error
    assert f"takes {wanted}: give the store of that spacing" in error
    assert evaluate([*flags, str(run / other)]) == 0


def test_a_native_and_a_resampled_store_have_the_same_targets_to_be_scored(run):
    digests = [SliceDataset(run / store, "test", crop=32).digests for store in ("native", "store")]
    for case in digests[0]:
        assert digests[0][case][1] == digests[1][case][1] and digests[0][case][0] != digests[1][case][0]


def test_pictures_are_of_the_stored_slices_and_a_volume_to_time_is_of_the_sources_grid(run, monkeypatch):
    checkpoint = checkpoints.load(run / "run")
    test = SliceDataset(run / "store", "test", task="all", crop=32)
    stored, source = (next(predict_cases(checkpoint, test, as_stored=each)) for each in (True, False))
    size = test.sizes[stored.case]
    assert stored.target.shape[1:] == size and stored.spacing == pytest.approx(
        (5.0, 44 * 0.8 / size[0], 50 * 0.8 / size[1])
    )
    assert source.target.shape[1:] == (44, 50) and source.spacing == (2.5, 0.8, 0.8)
    assert source.voxel_ml == pytest.approx(2.5 * 0.64 / 1000)
    group = Group.__new__(Group)
    monkeypatch.setattr(Group, "first", type("First", (), {"checkpoint": checkpoint}), raising=False)
    with volume_of(group, "test", None, None) as (file, words):
        import nibabel

        volume = nibabel.load(file)
    assert np.prod(volume.shape) == np.prod(source.target.shape) and "voxels, the largest of the test split" in words
