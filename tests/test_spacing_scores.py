"""Scores of a network of a spacing in mm: test on the sources' own grids, the same from every command."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from datasets.slices.dataset import SliceDataset
from datasets.slices.store import read_slice
from scripts.evaluate import main as evaluate
from tests.raw_cases import kits_case, make
from tests.tiny_checkpoints import labels_of, predict, scan, thresholds
from utils.evaluation import drawing
from utils.experiment.run import main as train
from utils.recipe.command_line import parse
from utils.recipe.schema import ROOT, Recipe
from utils.report import pictures
from utils.report.latency import volume_of
from utils.report.method import data_facts
from utils.runs.groups import Group
from utils.runs.run import Run
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


def test_cases_are_predicted_on_either_grid_and_a_volume_to_time_is_of_the_sources(run, monkeypatch):
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


@pytest.fixture
def groups(run):
    """That run as groups of a report: at its spacing, and on the native store."""
    checkpoint, found = checkpoints.load(run / "run"), {}
    for name in ("native", "store"):
        recipe = checkpoint["recipe"] | {"data": checkpoint["recipe"]["data"] | {"root": str(run / name)}}
        preprocessing = SliceDataset(run / name, "test", crop=32).preprocessing
        first = Run(
            run / name, checkpoint | {"recipe": recipe, "preprocessing": preprocessing}, "", "test", {"rows": []}
        )
        found[name] = SimpleNamespace(name=name, first=first)
    return found


@pytest.mark.parametrize("order", [("native", "store"), ("store", "native")])
def test_runs_of_several_spacings_are_drawn_on_the_grid_of_the_source(groups, monkeypatch, order):
    shown_groups = [groups[name] for name in order]
    test = SliceDataset(groups["native"].first.data, "test", crop=32)
    case = test.cases[0]
    (shown,) = pictures.predict_shown(shown_groups, [(case, "Worst case")], "test", None)
    native = read_slice(test.records[test.case_indices()[case][shown.number]].path)
    everything = [shown.image, shown.target, *shown.predictions.values()]
    assert {each.shape for each in everything} == {(44, 50)} and shown.spacing == (0.8, 0.8)
    assert np.array_equal(shown.target, native[1]) and np.array_equal(shown.predictions["native"], native[1])
    assert 0.5 < (shown.predictions["store"] == native[1]).mean() < 1
    assert np.corrcoef(shown.image.ravel(), native[0].ravel())[0, 1] > (1 - 1e-9 if order[0] == "native" else 0.6)
    assert len(pictures.case_block(shown, shown_groups, ["kidney", "tumor"]).tiles) == 3
    drawn, heat = [], drawing.with_heat
    monkeypatch.setattr(pictures, "attention_maps", lambda network, image, classes: image.numpy()[[0] * len(classes)])
    monkeypatch.setattr(drawing, "with_heat", lambda base, map_, frame: drawn.append(map_) or heat(base, map_, frame))
    assert pictures.case_attention([shown], shown_groups, ["kidney", "tumor"], "test", None)
    window = np.clip(native[0], -200, 300)
    assert len(drawn) == 4 and all(np.corrcoef(each.ravel(), window.ravel())[0, 1] > 0.6 for each in drawn)


def test_a_report_says_which_run_has_which_spacing(groups):
    facts = dict(data_facts([groups["native"], groups["store"]]))
    assert facts["Images"].endswith(
        f"; not resampled (native); resampled to {COARSE} (store): val scores are on the grid of the slices, test "
        "scores on the grids of the sources"
    )
    assert facts["Data"] == f"{groups['native'].first.data}, {groups['store'].first.data}"
    assert "resampled" not in dict(data_facts([groups["native"]]))["Images"]
    assert f"; resampled to {COARSE}: val" in dict(data_facts([groups["store"]]))["Images"]
