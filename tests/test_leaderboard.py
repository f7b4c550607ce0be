"""Leaderboards: fair runs, an equal budget for weights, honest intervals, and what a failure or a stop leaves."""

import csv
import fcntl
import json
import sys

import numpy as np
import pytest
import yaml

import train
from scripts import leaderboard
from utils.command_line import parse
from utils.config import ROOT, DistillationRecipe, Recipe
from utils.experiment import main
from utils.leaderboard.execution import Slots, execute
from utils.leaderboard.plan import (
    Calibration,
    Plan,
    Run,
    calibration_runs,
    fingerprint,
    method_runs,
    plain_runs,
    read_plan,
    run_folder,
)
from utils.leaderboard.results import choose_shares, paired, rows


def plan_of(folder, **changes):
    values = {
        "output": str(folder / "board"),
        "student_config": str(ROOT / "configs/kits19_student.yaml"),
        "students": {"small": {"name": "unet", "widths": [4, 4, 4, 4, 4]}},
        "methods": ["hinton", "emkd"],
        "teacher": str(folder / "teacher/best.ckpt"),
        "seeds": [0, 1],
    }
    return Plan(**values | changes)


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


def test_the_share_with_the_best_val_score_is_chosen(tmp_path):
    plan = plan_of(tmp_path, methods=["hinton"])
    for share, scores in ((0.3, (0.1, 0.2)), (1.0, (0.5, 0.3)), (3.0, (0.4, 0.4))):
        folder = tmp_path / f"board/small/hinton/share_{share:g}"
        folder.mkdir(parents=True)
        lines = "\n".join(f"{epoch},{score}" for epoch, score in enumerate(scores, 1))
        (folder / "history.csv").write_text(f"epoch,dice\n{lines}\n")
    assert choose_shares(plan) == {("small", "hinton"): 1.0}


def test_a_method_whose_calibration_is_not_complete_is_left_out(tmp_path):
    plan = plan_of(tmp_path)
    for share in (0.3, 1.0):  # 3 is missing
        folder = tmp_path / f"board/small/hinton/share_{share:g}"
        folder.mkdir(parents=True)
        (folder / "history.csv").write_text("epoch,dice\n1,0.4\n")
    assert choose_shares(plan) == {}
    assert {run.name for run in method_runs(plan, {("small", "emkd"): 1.0})} == {"small/emkd/0", "small/emkd/1"}
    assert len(method_runs(plan)) == 4


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


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"methods": ["emkdd"]}, "did you mean 'emkd'"),
        ({"teacher_config": "x.yaml"}, "either teacher"),
        ({"seeds": [0, 0]}, "once"),
        ({"seeds": [1000]}, "calibration.seed 1000"),
        ({"students": {}}, "at least one"),
        ({"student_flags": {"smal": []}}, "smal is not among the students; did you mean 'small'"),
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


def counting(tmp_path, name, code="pass"):
    """A run that notes that it ran, then does `code`."""
    program = f"import sys; open({str(tmp_path / 'ran')!r}, 'a').write({name!r} + ' '.join(sys.argv[1:]) + ';'); {code}"
    return Run(name, tmp_path / name, (sys.executable, "-c", program))


def ran(tmp_path):
    file = tmp_path / "ran"
    return file.read_text() if file.is_file() else ""


def run_all(runs, slots=None, identity="same"):
    ended = execute(runs, lambda run: {"command": identity}, slots or Slots(), lambda finished: None)
    return {finished.run.name: finished.problem for finished in ended}


def test_a_failed_run_is_told_and_the_others_finish(tmp_path):
    runs = [counting(tmp_path, "a"), counting(tmp_path, "b", "sys.exit('no good')"), counting(tmp_path, "c")]
    problems = run_all(runs, Slots(2))
    assert problems["a"] is None and problems["c"] is None
    assert problems["b"] == "exit status 1: no good"


def test_what_is_done_stays_and_what_failed_is_resumed(tmp_path):
    fails_once = (
        f"p = {str(tmp_path / 'once')!r}; import os; done = os.path.exists(p); open(p, 'w'); sys.exit(not done)"
    )
    runs = [counting(tmp_path, "a"), counting(tmp_path, "b", fails_once)]
    assert run_all(runs)["b"] is not None
    assert run_all(runs) == {"a": None, "b": None}
    assert ran(tmp_path) == "a;b;b--resume;"


def test_a_folder_of_another_command_or_teacher_is_never_taken(tmp_path):
    runs = [counting(tmp_path, "a")]
    run_all(runs)
    assert "another command" in run_all(runs, identity="other")["a"]
    (tmp_path / "b").mkdir()
    assert "not from a leaderboard" in run_all([counting(tmp_path, "b")])["b"]
    assert ran(tmp_path) == "a;"


def test_a_run_that_another_process_still_trains_is_left_alone(tmp_path):
    outliving = "import subprocess; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(10)'])"
    run = counting(tmp_path, "a", f"{outliving}; sys.exit('its leaderboard died')")
    assert "died" in run_all([run])["a"]  # what it started holds the log as a training does
    assert "another process trains this run" in run_all([run])["a"]
    assert ran(tmp_path) == "a;"


def test_no_training_outlives_an_error_of_the_leaderboard(tmp_path):
    slow = counting(tmp_path, "a", f"import time; time.sleep(5); open({str(tmp_path / 'late')!r}, 'w')")

    def report(finished):
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        execute([slow, counting(tmp_path, "b")], lambda run: {"command": ""}, Slots(2), report)
    with (tmp_path / "a/log.txt").open() as log:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nobody has it any more
    assert not (tmp_path / "late").exists()


def test_gpus_are_shared_out_and_cores_too():
    slots = Slots(3, ["0", "7"])
    assert [slots.environment(slot)["CUDA_VISIBLE_DEVICES"] for slot in slots.free] == ["0", "7", "0"]
    assert "OMP_NUM_THREADS" in Slots(2).environment(0)


def test_a_constant_gain_has_a_narrow_interval_and_its_share_of_the_gap():
    random = np.random.default_rng(0)
    theirs = random.uniform(0.4, 0.6, (3, 20))
    gain, closed = paired(theirs + 0.1, theirs, theirs.mean(0) + 0.2)
    assert gain.mean == pytest.approx(0.1) and gain.low == pytest.approx(0.1) and gain.high == pytest.approx(0.1)
    # 0.1 of a gap of 0.2; draws of seeds move the plain mean and with it the gap
    assert closed.mean == pytest.approx(0.5) and closed.low < 0.5 < closed.high


def test_a_gain_of_noise_includes_zero_and_no_gap_has_no_share():
    random = np.random.default_rng(0)
    theirs, ours = random.normal(0.5, 0.1, (2, 3, 20))
    gain, closed = paired(ours, theirs, theirs.mean(0) - 0.2)
    assert gain.low < 0 < gain.high and not gain.excludes_zero
    assert np.isnan(closed.mean)


def test_one_seed_fewer_is_drawn_than_there_are():
    # gains -0.3, -0.1, 0.1, 0.3 by seed, the same for all cases. Three of four: all 0.3 in 1 of 64 draws (1.6 %), 0.3,
    # 0.3 and 0.1 in 3 more (6.2 % in all), so the 97.5 % quantile is 0.7 / 3. Four of four would give 0.2.
    theirs = np.full((4, 10), 0.5)
    ours = theirs + np.array([-0.3, -0.1, 0.1, 0.3])[:, None]
    gain, _ = paired(ours, theirs, theirs[0] + 0.4)
    assert gain.high == pytest.approx(0.7 / 3) and gain.low == pytest.approx(-0.7 / 3)


def write_scores(folder, dice, name="x"):
    folder.mkdir(parents=True)
    cases = [{"case": f"c{number}", "class": name, "dice": value} for number, value in enumerate(dice)]
    scores = {f"dice/{name}": sum(dice) / len(dice), "ranked/dice": 0.75, "voe/x": 0.1}
    (folder / "test.json").write_text(json.dumps({"rows": cases, "scores": scores}))


def test_a_student_may_choose_the_shares_of_all(tmp_path):
    students = {name: {"name": "unet", "widths": [4, 4, 4, 4, 4]} for name in ("small", "large")}
    plan = plan_of(tmp_path, methods=["hinton"], students=students, calibration=Calibration([0.5, 2.0], [], "large"))
    assert {run.name for run in calibration_runs(plan)} == {"large/hinton/share 0.5", "large/hinton/share 2"}
    for share, dice in (("0.5", 0.3), ("2", 0.4)):
        folder = tmp_path / f"board/large/hinton/share_{share}"
        folder.mkdir(parents=True)
        (folder / "history.csv").write_text(f"epoch,dice\n1,{dice}\n")
    assert choose_shares(plan) == {("small", "hinton"): 2.0, ("large", "hinton"): 2.0}


def test_flags_of_a_student_are_those_of_its_control_and_its_methods_and_come_last(tmp_path):
    students = {name: {"name": "unet", "widths": [4, 4, 4, 4, 4]} for name in ("small", "large")}
    further = {"large": ["--training.epochs=2"]}
    plan = plan_of(tmp_path, students=students, flags=["--training.epochs=3"], student_flags=further)
    for run in [*plain_runs(plan), *calibration_runs(plan), *method_runs(plan)]:
        epochs = [part for part in run.command if part.startswith("--training.epochs")]
        assert epochs == ["--training.epochs=3", "--training.epochs=2"][: 2 if run.name.startswith("large") else 1]


def test_a_control_has_no_gain_and_of_other_classes_no_mean_either(tmp_path):
    controls = {"tumor": ["--data.task=tumor"], "longer": ["--training.epochs=9"]}
    plan = plan_of(tmp_path, methods=["hinton"], calibration=None, seeds=[0], controls=controls)
    assert "--data.task=tumor" in plain_runs(plan)[1].command and "--data.task=tumor" not in plain_runs(plan)[0].command
    write_scores(tmp_path / "teacher", [0.9, 0.7])
    for control, dice, name in (("plain", 0.5, "x"), ("tumor", 0.3, "tumor"), ("longer", 0.6, "x")):
        folder = run_folder(plan, "small", control, 0)
        write_scores(folder, [dice, dice], name)
        (folder / "history.csv").write_text("epoch,dice\n1,0.4\n2,\n3,0.3\n")
    plain, tumor, longer = rows(plan, {})[1:4]
    assert plain["val_dice"] == longer["val_dice"] == 0.4  # the best epoch
    assert (longer["method"], longer["dice"]) == ("plain: longer", pytest.approx(0.6))
    assert tumor["dice"] is None and tumor["val_dice"] is None and tumor["seeds"] == 1
    assert tumor["dice/tumor"] == pytest.approx(0.3) and tumor["ranked"] == 0.75 and "voe/x" not in tumor
    assert "gain" not in tumor and "gain" not in longer


def test_rows_pair_each_seed_with_its_own_and_name_what_is_missing(tmp_path):
    plan = plan_of(tmp_path, calibration=None)
    write_scores(tmp_path / "teacher", [0.9] * 10)
    for seed, level in ((0, 0.5), (1, 0.7)):
        write_scores(run_folder(plan, "small", "plain", seed), [level] * 10)
    write_scores(run_folder(plan, "small", "hinton", 1), [0.8] * 10)  # seed 0 failed
    table = rows(plan, {})
    hinton = next(row for row in table if row["method"] == "hinton")
    assert hinton["seeds"] == 1 and hinton["gain"] == pytest.approx(0.1)  # 0.8 - 0.7, not 0.8 - 0.6
    assert hinton["val_dice"] is None  # no history
    assert hinton["closed"] == pytest.approx(0.5) and hinton["verdict"] == "better"
    emkd = next(row for row in table if row["method"] == "emkd")
    assert emkd["dice"] is None and "gain" not in emkd


def test_what_another_plan_left_in_the_output_is_not_in_the_table(tmp_path):
    plan = plan_of(tmp_path, methods=["hinton"], calibration=None)
    write_scores(tmp_path / "teacher", [0.9] * 4)
    for run in plain_runs(plan) + method_runs(plan, {("small", "hinton"): 3.0}):
        write_scores(run.folder, [0.5] * 4)
        record = {"identity": fingerprint_of(run), "done": True}
        (run.folder / "leaderboard.json").write_text(json.dumps(record))
    seeds = {share: rows(plan, {("small", "hinton"): share})[-1]["seeds"] for share in (3.0, 1.0)}
    assert seeds == {3.0: 2, 1.0: 0}
    longer = plan_of(tmp_path, methods=["hinton"], calibration=None, flags=["--training.epochs=9"])
    assert [row["seeds"] for row in rows(longer, {("small", "hinton"): 3.0})] == [1, 0, 0]


def fingerprint_of(run):
    return {"command": list(run.command[1:]), "teacher_sha256": None}


def test_from_a_plan_to_a_table_and_a_second_call_runs_nothing(slice_store, tmp_path, capsys):
    shared = ["--training.epochs=1", "--training.batch_size=6", "--training.precision=32-true", "--data.crop=32"]
    flags = [f"--data.root={slice_store}", *shared]
    small = '--network={"name": "unet", "widths": [4, 4, 6, 6, 8]}'
    teacher = [f"--config={ROOT / 'configs/kits19_teacher.yaml'}", small, *flags, f"--output={tmp_path / 'teacher'}"]
    assert main(parse(Recipe, "test", [*teacher, "--mode=both"]), train.supervised) == 0
    plan = plan_of(tmp_path, methods=["hinton"], seeds=[0], flags=flags, teacher_cache_gb=0.1)
    values = {key: value for key, value in vars(plan).items() if key != "calibration" and value not in ("", [])}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(values | {"calibration": {"shares": [1.0]}}))
    assert leaderboard.main([str(tmp_path / "plan.yaml")]) == 0
    with (tmp_path / "board/leaderboard.csv").open(newline="") as file:
        table = {row["method"]: row for row in csv.DictReader(file)}
    assert float(table["hinton"]["dice"]) >= 0 and table["hinton"]["share"] == "1"
    assert list((tmp_path / "board/teacher_cache").rglob("*.safetensors"))
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "board").rglob("best.ckpt")}
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
