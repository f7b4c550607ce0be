"""The report: one self-contained page, honest about what it could not show."""

import json
import shutil
import subprocess

import numpy as np
import pytest
import yaml
from conftest import SPLIT
from image_stores import write_medmnist
from report_runs import Checker, report, trained

from scripts.report import main
from utils.experiment.run import main as run_recipe
from utils.recipe.command_line import parse
from utils.recipe.methods import METHODS
from utils.recipe.schema import ROOT, DistillationRecipe, Recipe
from utils.runs.groups import chosen_student, group_runs, method_name
from utils.runs.run import read_run as read_report_run
from utils.runs.run import read_tested
from utils.runs.side_by_side import differences
from utils.training import checkpoints

__all__ = ["trained"]  # a fixture
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PARTS = ("summary", "data", "scores", "curves", "terms", "cases", "attention", "method")


@pytest.fixture(scope="module")
def page(trained):
    """The page about all of them."""
    output = trained / "page" / "report.html"
    assert main(report(trained, output)) == 0
    return output


@pytest.fixture
def copied(trained, tmp_path):
    """The same runs, to be broken. Their recipes still name the first data and teacher."""
    for name in ("teacher", "alone", "emkd_0", "emkd_1"):
        shutil.copytree(trained / name, tmp_path / name)
    return tmp_path


def test_the_page_is_whole_and_self_contained(page):
    text = page.read_text()
    checked = Checker(text)
    assert len(checked.ids) == len(set(checked.ids))
    assert set(PARTS) <= set(checked.ids)
    assert {link.removeprefix("#") for link in checked.links} <= set(checked.ids)
    assert all(address.startswith("data:image/") for address in checked.addresses)
    assert "http" not in text and "url(" not in text and "@import" not in text
    assert not {"script", "iframe", "link"} & set(checked.tags)
    # three cases of 3 groups and the image with its target: 8 pictures each
    assert len(checked.pictures) >= 2 * 8
    assert all(picture["alt"] for picture in checked.pictures)
    assert checked.tags.count("svg") > 10 and checked.tags.count("title") > 50
    assert len(text) < 10_000_000
    assert [path.name for path in page.parent.iterdir()] == ["report.html"]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH")
def test_a_browser_shows_its_parts(page):
    command = [CHROMIUM, "--no-sandbox", "--headless", "--disable-gpu", "--dump-dom", page.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    for part in PARTS:
        assert f'<section id="{part}">' in shown
    for words in ("UNet teacher", "UNet alone", "UNet EMKD", "Worst case", "Best case", "Grad-CAM", "gradient"):
        assert words in shown
    assert shown.count("<polyline") >= 3 * 2  # three runs, train and val
    assert "data:image/webp;base64," in shown


def test_runs_know_their_roles_and_seeds_are_one_row(trained):
    folders = ("emkd_1", "alone", "teacher", "emkd_0")
    groups = group_runs([read_report_run(trained / name)[0] for name in folders])
    assert [(group.name, group.role, group.control) for group in groups] == [
        ("UNet teacher", "teacher", None),
        ("UNet alone", "plain", None),
        ("UNet EMKD", "distilled", "UNet alone"),
    ]
    assert [run.folder.name for run in groups[2].runs] == ["emkd_0", "emkd_1"]
    assert chosen_student(groups) is groups[2]


def test_a_teacher_of_the_students_own_network_is_a_teacher(copied):
    checkpoint = checkpoints.load(copied / "emkd_0")
    checkpoint["recipe"]["teacher"] = str(copied / "alone/best.ckpt")
    checkpoints.save(checkpoint, copied / "emkd_0/best.ckpt")
    groups = group_runs([read_report_run(copied / name)[0] for name in ("alone", "emkd_0")])
    assert [(group.role, group.control) for group in groups] == [("teacher", None), ("distilled", None)]


def test_gains_are_those_of_compare(trained, page):
    folders = {"UNet alone": ["alone"], "UNet EMKD": ["emkd_0", "emkd_1"]}
    groups = {name: [read_tested(trained / each) for each in members] for name, members in folders.items()}
    line = differences(groups, "UNet alone")[0]
    mean = line.split(": ")[1].split(" ")[0]
    low, high = line.split("[")[1].split("]")[0].split(", ")
    words = Checker(page.read_text()).words
    assert f"{mean} [{low}, {high}]" in words
    assert ("no measurable difference" in line) == ("No measurable difference" in words)


def test_dice_below_a_picture_is_the_cases_own(trained, page):
    rows = json.loads((trained / "alone/test.json").read_text())["rows"]
    case = rows[0]["case"]
    dice = np.mean([row["dice"] for row in rows if row["case"] == case])
    assert f"Dice {dice:.3f} (kidney" in Checker(page.read_text()).words


def test_a_run_without_test_scores_shows_val_and_says_so(copied, capsys):
    (copied / "alone" / "test.json").unlink()
    output = copied / "report.html"
    assert main(report(copied, output, "--cases", 0, runs=("alone", "emkd_0"))) == 1
    told = capsys.readouterr()
    assert told.out.splitlines()[-1] == str(output)
    assert f"{copied / 'alone'}: has no test.json" in told.err
    words = Checker(output.read_text()).words
    assert "val, not tested" in words
    assert f"{copied / 'alone'}: has no test.json" in words
    assert "one was scored on test, the other on val: not compared" in words


@pytest.mark.parametrize("content", ["{", '{"rows": []}', "[]", '{"rows": [1], "scores": {"a": 1}}'])
def test_a_broken_test_file_is_told_and_the_rest_goes_on(copied, capsys, content):
    (copied / "alone" / "test.json").write_text(content)
    assert main(report(copied, copied / "report.html", "--cases", 0, runs=("alone",))) == 1
    said = capsys.readouterr().err
    assert f"{copied / 'alone/test.json'}: " in said and "move it away" in said and "those of val" in said


def test_test_scores_of_other_weights_are_not_shown(copied, capsys):
    checkpoint = checkpoints.load(copied / "alone/best.ckpt")
    checkpoints.save(checkpoint | {"epoch": 99}, copied / "alone/best.ckpt")
    assert main(report(copied, copied / "report.html", "--cases", 0, runs=("alone",))) == 1
    assert "was made by an earlier best.ckpt" in capsys.readouterr().err


def test_a_run_without_events_has_no_curves_and_the_others_have(copied, capsys):
    for file in (copied / "emkd_0").glob("events*"):
        file.unlink()
    assert main(report(copied, copied / "report.html", "--cases", 0, runs=("alone", "emkd_0"))) == 1
    assert f"{copied / 'emkd_0'}: has no TensorBoard event file" in capsys.readouterr().err
    assert "polyline" in (copied / "report.html").read_text()


def test_a_run_of_another_split_is_left_out_and_named(copied, capsys):
    checkpoint = checkpoints.load(copied / "alone/best.ckpt")
    checkpoints.save(checkpoint | {"split": {**SPLIT, "sha256": "f" * 64}}, copied / "alone/best.ckpt")
    assert main(report(copied, copied / "report.html", "--cases", 0, runs=("teacher", "alone", "emkd_0"))) == 1
    error = capsys.readouterr().err
    assert f"{copied / 'alone'}: split ffffffffffff" in error
    assert f"{copied / 'teacher'} has {checkpoint['split']['sha256'][:12]}" in error
    words = Checker((copied / "report.html").read_text()).words
    assert "cannot be paired" in words
    assert "no run of UNet trained alone is among these" in words


def test_without_its_data_the_page_has_no_pictures_and_says_why(copied, capsys):
    assert main(report(copied, copied / "report.html", "--data", copied / "nowhere", runs=("alone", "emkd_0"))) == 1
    assert "no pictures of cases" in capsys.readouterr().err
    checked = Checker((copied / "report.html").read_text())
    assert not checked.pictures and {"scores", "curves"} <= set(checked.ids)


def test_nothing_is_overwritten_when_no_run_can_be_read(tmp_path, capsys):
    output = tmp_path / "report.html"
    output.write_text("before")
    (tmp_path / "run").mkdir()
    assert main(["--runs", str(tmp_path / "run"), str(tmp_path / "none"), "--output", str(output)]) == 2
    said = capsys.readouterr().err
    assert "run: has no best.ckpt" in said and "none: no such folder" in said
    assert output.read_text() == "before"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--output", "report.pdf"], "ends in .html"),
        (["--output", "report.html", "--repeats", "0"], "--repeats 0: give 1 or more"),
        (["--output", "report.html", "--cases", "-1"], "--cases -1: give 0 or more"),
        (["--output", "."], "is a folder"),
    ],
)
def test_wrong_flags_are_told_in_one_line(tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(tmp_path)
    assert main(["--runs", "run", *flags]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_what_a_folder_is_called_is_text_on_the_page(copied):
    odd = copied / "<b>&'x\""
    (copied / "alone").rename(odd)
    output = copied / "report.html"
    assert main(report(copied, output, "--cases", 0, runs=(odd.name, "emkd_0"))) == 0
    checked = Checker(output.read_text())
    assert "<b>&'x\"" in checked.words


def test_distances_are_shown_where_evaluate_measured_them(copied):
    digest = checkpoints.sha256(copied / "alone/best.ckpt")
    row = {"class": "kidney", "surface_dice": 0.5, "assd_mm": 1.0, "voe": 0.25, "abs_rvd": 0.5, "lesion_f1": 1.0}
    rows = [{**row, "case": "a", "hd95_mm": 2.0}, {**row, "case": "b", "hd95_mm": None}]
    content = {"evaluated": {"checkpoint_sha256": digest}, "rows": rows}
    (copied / "alone/best_test_scores.json").write_text(json.dumps(content))
    assert main(report(copied, copied / "report.html", "--cases", 0, runs=("alone",))) == 0
    assert "2.00 (1 of 2)" in Checker((copied / "report.html").read_text()).words


def test_methods_are_known_by_their_terms():
    assert method_name([{"name": "hint", "student": "encoder1", "teacher": "encoder1", "weight": 17.0}]) == "distilled"
    terms = {file.stem: yaml.safe_load(file.read_text())["distillation"] for file in METHODS.glob("*.yaml")}
    shown = {"dice_attention": "Dice attention", "hlfd": "HLFD", "body_edge": "Body edge", "deep_kd": "Deep kd"}
    assert {name: method_name(terms[name]) for name in shown} == shown


def test_classification_has_matrices_and_answers(tmp_path):
    file = write_medmnist(tmp_path / "spots.npz", {"train": (12, 6, 3), "val": (3, 2, 1), "test": (9, 8, 7)})
    small = ["--data.image_size=32", "--training.batch_size=8", "--training.epochs=1", "--mode=both"]
    small += [f"--data.file={file}", "--training.log_every=1", "--training.pictures=0", "--training.precision=32-true"]
    network = '--network={"name": "squeezenet"}'
    teacher = [f"--config={ROOT / 'configs/dermamnist_teacher.yaml'}", *small, network, "--task_weight=2.0"]
    assert run_recipe(parse(Recipe, "test", [*teacher, f"--output={tmp_path / 'teacher'}"])) == 0
    student = [f"--config={ROOT / 'configs/dermamnist_student.yaml'}", *small, network]
    assert run_recipe(parse(Recipe, "test", [*student, f"--output={tmp_path / 'alone'}"])) == 0
    distilled = [
        *student,
        f"--config={ROOT / 'configs/methods/skin_lesion.yaml'}",
        f"--output={tmp_path / 'distilled'}",
    ]
    distilled.append(f"--teacher={tmp_path / 'teacher/best.ckpt'}")
    assert run_recipe(parse(DistillationRecipe, "test", distilled)) == 0
    assert main(report(tmp_path, tmp_path / "report.html", runs=("teacher", "alone", "distilled"))) == 0
    checked = Checker((tmp_path / "report.html").read_text())
    assert {"summary", "scores", "curves", "confusion", "cases", "attention", "method"} <= set(checked.ids)
    rows = json.loads((tmp_path / "alone/test.json").read_text())["rows"]
    accuracy = np.mean([row["target"] == row["prediction"] for row in rows])
    assert f"{accuracy:.3f}" in checked.words
    assert "balanced accuracy" in checked.words
