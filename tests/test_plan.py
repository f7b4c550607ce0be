"""scripts/Plan.py: what it reads from the data, what it chooses, and that what it writes trains."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import store_of, write_store
from plan_stores import add_geometry, linear
from raw_cases import kits_case, make
from tiny_runs import Tiny

import train
import train_kd
from networks import NETWORKS, SEGMENTATION
from utils.distillation import balance
from utils.planning import memory
from utils.planning.choices import (
    PixelGrid,
    augmentation_of,
    batch_of,
    choose_spacing,
    choose_window,
    crop_of,
    neighbors_of,
    placed_apart,
    thinning_of,
)
from utils.planning.fingerprint import Foreground, look
from utils.planning.locator import plan_locator
from utils.planning.recipes import slice_command
from utils.planning.sources import of_raw, of_store

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))
import Plan


@pytest.fixture
def untimed(monkeypatch, tmp_path):
    """Steps are not tried, and the folder is an empty one."""
    monkeypatch.setattr(memory, "in_own_process", linear)
    monkeypatch.chdir(tmp_path)


def test_intensities_are_those_of_the_foreground_of_training_cases(tmp_path):
    """The percentiles are of values 0 to 1000 under the label; test holds others, and so does the background."""
    image = np.full((1, 40, 40), -1000, np.int16)
    label = np.zeros((1, 40, 40), np.uint8)
    label[0, :25, :] = 1
    image[0, :25, :] = np.arange(1000).reshape(25, 40)
    cases = {"a": (image, label), "b": (image + 5000, label), "c": (image + 5000, label)}
    split = {"train": ["a"], "val": ["b"], "test": ["c"]}
    found = of_store(write_store(tmp_path / "s", cases, "CT", {1: "kidney"}, [], "all", "kits", split), None)
    assert found.percentiles == pytest.approx(tuple(np.percentile(np.arange(1000), (0.5, 99.5))))
    assert choose_window(found).value == [4, 995]


def test_a_narrow_window_is_widened(tmp_path):
    image, label = np.full((1, 32, 32), 40, np.int16), np.ones((1, 32, 32), np.uint8)
    assert choose_window(of_store(store_of(tmp_path / "s", image, label), None)).value == [-10, 90]


def test_the_foreground_of_slices():
    label = np.zeros((10, 12), np.uint8)
    label[2:5, 3:9] = 1
    label[4, 8] = 2
    found = look([(np.arange(120).reshape(10, 12), label), (np.zeros((10, 12)), np.zeros((10, 12), np.uint8))])
    assert found.box == (2, 3, 5, 9) and found.centers[2] == (4, 8)
    assert len(found.values) == 18 and found.values.max() == 56
    assert look([]).box is None


def test_millimeters_and_milliliters_come_from_the_affine(slice_store):
    add_geometry(slice_store, 0.5)
    found = of_store(slice_store, None)
    assert found.in_plane == 0.5 and found.between == 3.0
    assert found.cases[0].milliliters == pytest.approx({1: 0.075, 2: 0.0075})
    assert found.patients("train", 2) == 3 and found.raw == Path("/raw")


def test_a_resampled_store_measures_what_is_stored(slice_store):
    """A field of view of 48 mm in 24 columns has pixels of 2 mm, and slabs of two slices are 6 mm apart."""
    add_geometry(slice_store, 1.0)
    file = slice_store / "case_00000/geometry.json"
    geometry = json.loads(file.read_text())
    file.write_text(json.dumps(geometry | {"stored": {"shape": [3, 20, 24], "slab": 2}}))
    assert of_store(slice_store, None).cases[0].spacing == (6.0, 2.0, 2.0)


def test_pixels_that_differ_are_resampled_to_their_median(slice_store):
    sizes = dict(zip((f"case_{n:05d}" for n in range(6)), (0.5, 0.7, 1.0, 9.0, 9.0, 9.0), strict=True))
    add_geometry(slice_store, sizes)
    found = of_store(slice_store, None)
    assert choose_spacing(found).value == 0.7
    assert PixelGrid(0.7).size(found.cases[0]) == (29, 34)
    add_geometry(slice_store, dict.fromkeys(sizes, 0.7))
    assert choose_spacing(of_store(slice_store, None)).value is None


def placed(fingerprint, box, centers):
    """The same fingerprint with this foreground in every training case: `centers(number)` is of the case's number."""
    cases = [
        replace(case, shape=(6, 512, 512), foreground=Foreground(box, centers(number), np.arange(500.0)))
        for number, case in enumerate(fingerprint.training)
    ]
    return replace(fingerprint, cases=cases)


def test_the_crop_holds_the_foreground(slice_store):
    """A box of 150 with a quarter around it is 187.5, which 192 holds; far from the center crops follow it."""
    found = of_store(slice_store, None)
    crop, mode = crop_of(placed(found, (200, 181, 300, 331), lambda number: {}), PixelGrid())
    assert crop.value == 192 and mode.value == "center"
    crop, mode = crop_of(placed(found, (0, 0, 150, 100), lambda number: {}), PixelGrid())
    assert crop.value == 192 and mode.value == "foreground"
    assert crop_of(placed(found, (0, 0, 512, 512), lambda number: {}), PixelGrid())[0].value == 512
    assert crop_of(placed(found, (250, 250, 260, 260), lambda number: {}), PixelGrid())[0].value == 64


def test_classes_that_lie_apart_are_not_flipped(slice_store):
    found = replace(of_store(slice_store, "all"), task="all")
    box = (200, 200, 300, 300)
    above = placed(found, box, lambda number: {1: (210 + number, 250), 2: (240 - number, 250)})
    assert placed_apart(above) == ("kidney", "tumor") and augmentation_of(above).value == ["affine", "intensity"]
    around = placed(found, box, lambda number: {1: (240, 250), 2: (240 + 30 * (number - 1), 250)})
    assert placed_apart(around) is None and augmentation_of(around).value == ["flip", "affine", "intensity"]


def test_as_many_slices_without_foreground_as_with_it(slice_store):
    """Of 18 training slices 12 show a kidney, 6 a tumor."""
    assert thinning_of(of_store(slice_store, "organ")).value == 1.0
    assert thinning_of(of_store(slice_store, "tumor")).value == 0.5


def test_neighbors_are_slices_that_show_the_same(slice_store):
    """Pixels of 1 mm: slices 5 mm apart are too far off, those 0.5 mm apart are too near."""
    for between, wanted in ((5.0, (0, None)), (3.0, (1, None)), (0.5, (1, 2.0))):
        add_geometry(slice_store, 1.0, between)
        found = neighbors_of(of_store(slice_store, None), PixelGrid())
        assert tuple(choice.value for choice in found) == wanted


def test_few_slices_have_small_batches():
    assert [batch_of(384, slices).value for slices in (10**4, 200, 20)] == [16, 8, 8]
    assert batch_of(64, 10**4).value == 32


def test_the_slabs_of_a_store_are_kept(slice_store):
    """A store of 3 mm slabs stays one at another spacing; a locator has slabs as thick as its pixels are wide."""
    add_geometry(slice_store, 0.8)
    found = replace(of_store(slice_store, None), slice_spacing=3.0)
    words = slice_command(found, slice_store, PixelGrid(1.6, found.slice_spacing))
    assert "--spacing 1.6 --slice_spacing 3 " in words
    assert "--spacing 4 --slice_spacing 4 " in plan_locator(found, None)[2]
    assert "--slice_spacing 8 " in plan_locator(replace(found, slice_spacing=8.0), None)[2]
    assert PixelGrid(1.6, 3.0).slices(found.cases[0]) == 6 and PixelGrid(4.0, 6.0).slices(found.cases[0]) == 3


def test_a_locator_that_learns_thick_slices_looks_at_slabs_of_thin_ones(slice_store):
    add_geometry(slice_store, 0.8, 5.0)
    found = of_store(slice_store, None)
    assert "--slice_spacing 4 " in plan_locator(found, None)[2]
    assert PixelGrid(4.0, 4.0).slices(found.cases[0]) == found.cases[0].shape[0]  # 5 mm: one slice a slab


def run(*words) -> int:
    return Plan.main([str(word) for word in words])


def test_the_recipes_of_a_store_train_as_they_are(slice_store, untimed, monkeypatch, capsys):
    """Nothing but the number of epochs is changed; terms are weighed after a step instead of 32."""
    monkeypatch.setattr(balance, "WARM_UP", 1)
    monkeypatch.setitem(SEGMENTATION, "tiny", Tiny)
    monkeypatch.setitem(NETWORKS, "tiny", Tiny)
    assert run("--data", slice_store, "--task", "all", "--teacher", "tiny", "--student", "tiny") == 0
    folder = Path("plans/kits")
    assert f"python train_kd.py --config {folder}/student.yaml" in capsys.readouterr().out
    recipe = yaml.safe_load((folder / "student.yaml").read_text())
    assert recipe["data"]["crop"] == 64 and recipe["training"]["batch_size"] == 8
    assert recipe["teacher"] == "runs/kits_teacher/best.ckpt" and recipe["method"] == "dice_attention"
    assert "Memory and time" in (folder / "plan.html").read_text()
    for script, role in ((train, "teacher"), (train_kd, "student")):
        words = [f"{script.__name__}.py", "--config", f"{folder}/{role}.yaml", "--training.epochs=1"]
        monkeypatch.setattr(sys, "argv", words)
        assert script.main() == 0
    assert Path("runs/kits_student/best.ckpt").is_file()


def test_raw_volumes_are_planned_before_they_are_sliced(tmp_path, untimed, capsys):
    """Every choice is that of the store that SliceMaker then makes of them."""
    for number in range(5):
        kits_case(tmp_path / "raw", number)
    words = ["--teacher", "enet", "--data", tmp_path / "kits"]
    assert run(*words, "--inpath", tmp_path / "raw", "--dataset", "kits") == 0
    out = capsys.readouterr().out
    assert f"SliceMaker.py --inpath {tmp_path}/raw --outpath {tmp_path}/kits --dataset kits --task tumor\n" in out
    assert make(tmp_path / "raw", tmp_path / "kits") == 0
    sliced, raw = of_store(tmp_path / "kits", None), of_raw("kits", tmp_path / "raw", tmp_path / "kits", None, None)
    for a, b in zip(sliced.cases, raw.cases, strict=True):
        assert (a.case, a.split, a.shape, a.spacing, a.labels) == (b.case, b.split, b.shape, b.spacing, b.labels)
        assert a.milliliters == b.milliliters
    assert sliced.percentiles == raw.percentiles


def test_another_spacing_comes_with_the_command_that_makes_its_store(slice_store, untimed, capsys):
    sizes = dict(zip((f"case_{n:05d}" for n in range(6)), (0.5, 0.7, 1.0, 9.0, 9.0, 9.0), strict=True))
    add_geometry(slice_store, sizes)
    assert run("--data", slice_store, "--output", "plan") == 0
    wanted = f"--inpath /raw --outpath {slice_store}_0.7mm --dataset kits --task tumor --spacing 0.7 --split_file"
    assert f"{wanted} {slice_store}/split.json" in capsys.readouterr().out
    assert yaml.safe_load(Path("plan/teacher.yaml").read_text())["data"]["root"] == f"{slice_store}_0.7mm"


def test_a_locator_sees_whole_slices_at_coarse_pixels(slice_store, untimed, capsys):
    """A field of view of up to 48 pixels of 3 mm is 144 mm, 36 pixels of 4 mm; of 480 mm it is 96 pixels of 5 mm."""
    add_geometry(slice_store, 3.0)
    assert run("--data", slice_store, "--locate", "--output", "plan") == 0
    recipe = yaml.safe_load(Path("plan/locator.yaml").read_text())
    assert recipe["data"] | {"task": "organ", "crop": 64, "crop_mode": "center"} == recipe["data"]
    assert recipe["network"]["name"] == "unet" and recipe["data"]["root"] == f"{slice_store}_4mm"
    out = capsys.readouterr().out
    wanted = f"--outpath {slice_store}_4mm --dataset kits --task organ --spacing 4 --slice_spacing 4 --split_file"
    assert wanted in out
    run_of = "runs/kits_locator"
    assert f"evaluate.py --checkpoint {run_of} --split val --margin\n" in out
    assert f"predict.py --checkpoint runs/kits_student --locate {run_of} --input /raw --output located\n" in out
    found = of_store(slice_store, None)
    wide = replace(found, cases=[replace(case, shape=(6, 160, 160)) for case in found.cases])
    assert plan_locator(wide, None)[1]["spacing"].value == 5.0
    add_geometry(slice_store, 4.0)
    assert run("--data", slice_store, "--locate", "--output", "plan") == 2
    assert "pixels measure 4 mm: a locator at 4 mm would spare nothing" in capsys.readouterr().err


def test_what_others_wrote_or_changed_is_not_replaced(slice_store, untimed, capsys):
    assert run("--data", slice_store, "--output", "plan") == run("--data", slice_store, "--output", "plan") == 0
    file = Path("plan/student.yaml")
    planned = file.read_text()
    for text, what in ((planned.replace("seed: 0", "seed: 1"), "was changed since"), ("seed: 1\n", "no plan wrote it")):
        file.write_text(text)
        assert run("--data", slice_store, "--output", "plan") == 2
        assert what in capsys.readouterr().err and file.read_text() == text


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--data", "nowhere"], "nowhere is not a slice store"),
        (["--data", "s", "--dataset", "kits"], "--inpath and --dataset belong together"),
        (["--data", "s", "--student", "enets"], "--student: unknown name 'enets'; did you mean 'enet'?"),
    ],
)
def test_bad_input_ends_in_one_line(untimed, capsys, words, what):
    assert run(*words) == 2
    err = capsys.readouterr().err
    assert what in err and err.count("\n") == 1


def test_a_split_without_val_cannot_be_planned_from(tmp_path):
    image, label = np.zeros((1, 32, 32), np.int16), np.ones((1, 32, 32), np.uint8)
    split = {"train": ["a"], "val": [], "test": []}
    store = write_store(tmp_path / "s", {"a": (image, label)}, "CT", {1: "liver"}, [], "all", "lits", split)
    with pytest.raises(ValueError, match="no val case to plan from"):
        of_store(store, None).refuse_useless()
