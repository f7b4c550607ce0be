"""Leaderboards: fair runs, an equal budget for weights, honest intervals, and what a failure or a stop leaves."""

import csv
import json
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml
from leaderboard_plans import plan_of
from tiny_runs import tiny

from datasets.slices.store import read_index
from scripts import leaderboard
from utils.experiment.run import main
from utils.leaderboard.execution import Slots, execute
from utils.leaderboard.identity import difference, fingerprint
from utils.leaderboard.plan import (
    Calibration,
    calibration_runs,
    method_runs,
    plain_runs,
    read_plan,
    run_folder,
)
from utils.recipe.command_line import parse
from utils.recipe.schema import ROOT, DistillationRecipe, Recipe

__all__ = ["tiny"]  # a fixture


def test_runs_of_a_seed_differ_in_the_method_alone(tmp_path):
    plan = plan_of(tmp_path, flags=["--training.epochs=3"], teacher_cache_gb=2)
    plain = {run.name: set(run.command[2:]) for run in plain_runs(plan)}
    methods = {
        run.name: set(run.command[2:]) for run in method_runs(plan, {("small", name): 0.3 for name in plan.methods})
    }
    assert set(plain) == {"small/plain/0", "small/plain/1"} and len(methods) == 4
    extra = methods["small/emkd/1"] - plain["small/plain/1"]
    kinds = {part.partition("=")[0] for part in extra if part.startswith("--")}
    assert kinds == {"--teacher", "--teacher_cache", "--teacher_cache_gb", "--distillation_share", "--output"}
    assert plain["small/plain/1"] - methods["small/emkd/1"] == {f"--output={run_folder(plan, 'small', 'plain', 1)}"}


def test_every_method_has_the_same_budget_of_calibration_and_it_reads_no_test(tmp_path):
    runs = calibration_runs(plan_of(tmp_path))
    assert len(runs) == 2 * 3  # methods x shares
    assert all("--mode=train" in run.command and "--seed=1000" in run.command for run in runs)
    assert calibration_runs(plan_of(tmp_path, calibration=None)) == []


def test_a_recipe_that_changed_is_another_run_and_a_comment_is_not(tmp_path):
    method = tmp_path / "mine.yaml"
    method.write_text("distillation: []  # a comment\n")
    plan = plan_of(tmp_path, methods=[str(method)], calibration=None)
    (tmp_path / "teacher").mkdir()
    plan.teacher_checkpoint.write_bytes(b"weights")
    (run, *_) = method_runs(plan)
    before = fingerprint(plan, run)
    method.write_text("# another\ndistillation: []\n")
    assert fingerprint(plan, run) == before
    method.write_text("distillation: [1]\n")
    assert fingerprint(plan, run) != before


@pytest.mark.parametrize("root", ["--data.root={}", "--data.root {}"])
def test_data_of_other_contents_make_another_run(slice_store, tmp_path, root):
    plan = plan_of(tmp_path, flags=["--data.root=nowhere", *root.format(slice_store).split()])
    (run, *_) = plain_runs(plan)
    before = fingerprint(plan, run)
    assert difference(before, fingerprint(plan, run)) is None
    file = slice_store / read_index(slice_store)[0].file
    file.write_bytes(bytes(reversed(file.read_bytes())))  # of the same size
    index = slice_store / "index.csv"
    index.write_bytes(index.read_bytes())
    assert difference(before, fingerprint(plan, run)) == "data"
    index.unlink()  # of a table nothing is lost with the data
    assert difference(before, fingerprint(plan, run)) is None


def test_a_moved_repository_keeps_its_runs(tmp_path, monkeypatch):
    def fingerprints():
        plan = plan_of(tmp_path, student_config="configs/kits19_student.yaml")
        runs = [*plain_runs(plan), *calibration_runs(plan), *method_runs(plan)]
        return [fingerprint(plan, run) for run in runs]

    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher/best.ckpt").write_bytes(b"weights")
    monkeypatch.chdir(ROOT)
    before = fingerprints()
    moved = tmp_path / "moved"
    moved.symlink_to(ROOT)
    for name, place in {"plan.ROOT": moved, "plan.METHODS": moved / "configs/methods", "identity.ROOT": moved}.items():
        monkeypatch.setattr(f"utils.leaderboard.{name}", place)
    assert fingerprints() == before and len(before) == 2 + 6 + 4


def test_a_method_with_weights_of_its_own_is_neither_calibrated_nor_scaled(tmp_path):
    plan = plan_of(tmp_path, own_weights=["emkd"])
    assert {run.name.split("/")[1] for run in calibration_runs(plan)} == {"hinton"}
    (run, *_) = [run for run in method_runs(plan, {}) if "emkd" in run.name]  # hinton waits for its share
    assert not any(part.startswith("--distillation_share") for part in run.command)
    assert not [run for run in method_runs(plan, {}) if "hinton" in run.name]


def test_a_teacher_that_is_missing_or_untested_is_told_before_any_run(tmp_path, capsys):
    plan = asdict(plan_of(tmp_path))
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    assert leaderboard.main([str(tmp_path / "plan.yaml")]) == 2
    assert "teacher/best.ckpt: no such teacher" in capsys.readouterr().err
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher/best.ckpt").write_bytes(b"")
    scores, kidney = tmp_path / "teacher/test.json", {"case": "a", "class": "kidney", "dice": 1.0}
    for found in (None, {"rows": [{"case": "a"}]}, {"rows": [kidney], "checkpoint_sha256": "old"}):
        if found:
            scores.write_text(json.dumps(found))
        assert leaderboard.main([str(tmp_path / "plan.yaml")]) == 2
        said = capsys.readouterr().err
        assert "test.json" in said and said.count("\n") == 1
    assert "another best.ckpt: read test again" in said
    assert not (tmp_path / "board").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"student_config": "null.yaml"}, "null.yaml: task_loss is null, so small/plain/0 would learn from no label"),
        ({"flags": ["--task_loss=null"]}, "--task_loss: task_loss is null"),
        ({"student_flags": {"small": ["--task_loss", "null"]}}, "--task_loss: task_loss is null"),
        ({"student_config": "null.yaml", "flags": ["--task_loss={name: dice_ce}"]}, "no such teacher"),
    ],
)
def test_a_leaderboard_without_labels_is_refused_before_any_run(tmp_path, monkeypatch, capsys, changes, said):
    monkeypatch.chdir(tmp_path)
    Path("null.yaml").write_text("data: {name: slices, root: x}\ntask_loss:\n")
    Path("plan.yaml").write_text(yaml.safe_dump(asdict(plan_of(tmp_path, **changes))))
    assert leaderboard.main(["plan.yaml"]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "board").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"methods": ["emkdd"]}, "did you mean 'emkd'"),
        ({"teacher_config": "x.yaml"}, "either teacher"),
        ({"seeds": [0, 0]}, "once"),
        ({"seeds": [1000]}, "calibration.seed 1000"),
        ({"students": {}}, "at least one"),
        ({"student_flags": {"smal": []}}, "smal is not among the students; did you mean 'small'"),
        ({"own_weights": ["emk"]}, "own_weights: emk is not among the methods; did you mean 'emkd'"),
        ({"controls": {"emkd": []}}, "emkd is the name of a method"),
        ({"calibration": Calibration(student="smal")}, "calibration.student: smal"),
    ],
)
def test_a_wrong_plan_is_refused_before_any_run(tmp_path, changes, said):
    with pytest.raises(ValueError, match=said):
        plan_of(tmp_path, **changes)


def test_a_plan_of_wrong_keys_is_one_line(tmp_path):
    (tmp_path / "plan.yaml").write_text("output: x\nstudnets: {}\n")
    with pytest.raises(ValueError, match=r"plan.yaml: ") as error:
        read_plan(tmp_path / "plan.yaml")
    assert "\n" not in str(error.value)


def test_flags_of_a_student_are_those_of_its_control_and_its_methods_and_come_last(tmp_path):
    students = {name: {"name": "unet", "widths": [4, 4, 4, 4, 4]} for name in ("small", "large")}
    further = {"large": ["--training.epochs=2"]}
    plan = plan_of(tmp_path, students=students, flags=["--training.epochs=3"], student_flags=further)
    for run in [*plain_runs(plan), *calibration_runs(plan), *method_runs(plan)]:
        epochs = [part for part in run.command if part.startswith("--training.epochs")]
        assert epochs == ["--training.epochs=3", "--training.epochs=2"][: 2 if run.name.startswith("large") else 1]


def test_a_recipe_that_is_no_yaml_ends_no_other_run(tmp_path):
    (tmp_path / "broken.yaml").write_text("distillation: [{")
    plan = plan_of(tmp_path, methods=[str(tmp_path / "broken.yaml")], calibration=None)
    ended = execute(method_runs(plan)[:1], lambda run: fingerprint(plan, run), Slots(1), lambda _: None)
    assert "broken.yaml: not valid YAML" in ended[0].problem


class InThisProcess:
    """A training that `execute` starts, without the seconds that a process takes to import torch."""

    def __init__(self, command, **_):
        recipe_class = Recipe if "train.py" in command[1] else DistillationRecipe
        self.returncode = main(parse(recipe_class, "test", command[2:]))

    def poll(self):
        return self.returncode


def test_from_a_plan_to_a_table_and_a_second_call_runs_nothing(slice_store, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("utils.leaderboard.execution.subprocess.Popen", InThisProcess)
    monkeypatch.setattr("utils.leaderboard.execution.POLL_S", 0)
    shared = ["--training.epochs=1", "--training.batch_size=6", "--training.precision=32-true", "--data.crop=32"]
    flags = [f"--data.root={slice_store}", *shared]
    network = '--network={"name": "tiny"}'
    teacher = [f"--config={ROOT / 'configs/kits19_teacher.yaml'}", network, *flags, f"--output={tmp_path / 'teacher'}"]
    assert main(parse(Recipe, "test", [*teacher, "--mode=both"])) == 0
    students = {"small": {"name": "tiny"}}
    plan = plan_of(tmp_path, students=students, methods=["hinton"], seeds=[0], flags=flags, teacher_cache_gb=0.1)
    values = {key: value for key, value in vars(plan).items() if key != "calibration" and value not in ("", [])}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(values | {"calibration": {"shares": [1.0]}}))
    assert leaderboard.main([str(tmp_path / "plan.yaml")]) == 0
    with (tmp_path / "board/leaderboard.csv").open(newline="") as file:
        table = {row["method"]: row for row in csv.DictReader(file)}
    assert float(table["hinton"]["dice"]) >= 0 and table["hinton"]["share"] == "1"
    assert list((tmp_path / "board/teacher_cache").rglob("*.safetensors"))
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "board").rglob("best.ckpt")}
    again = "utils.leaderboard.execution.subprocess.Popen"
    monkeypatch.setattr(again, lambda *_, **__: pytest.fail("a run that is done ran again"))
    assert len(before) == 3 and leaderboard.main([str(tmp_path / "plan.yaml")]) == 0
    assert before == {file: file.stat().st_mtime_ns for file in before}
    (run,) = plain_runs(plan)
    assert fingerprint(plan, run)["teacher_sha256"] is None


@pytest.mark.parametrize("file", sorted((ROOT / "configs/leaderboards").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_plan_of_the_repository_can_be_run(file):
    plan = read_plan(file)
    assert len(plan.seeds) >= 3
    if file.stem in ("hippocampus", "phantom", "liver"):
        assert len(plan.students) >= 2 and len(plan.methods) >= 12
    for run in (plain_runs(plan)[0], method_runs(plan)[0]):
        recipe_class = Recipe if "train.py" in run.command[1] else DistillationRecipe
        parse(recipe_class, "test", run.command[2:])
