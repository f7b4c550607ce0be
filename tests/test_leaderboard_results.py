"""A leaderboard's table: what was trained as the plan says, paired by seed and case, and how sure its figures are."""

import json

import numpy as np
import pytest
from leaderboard_plans import plan_of, write_scores

from utils.leaderboard.identity import fingerprint
from utils.leaderboard.plan import (
    Calibration,
    calibration_runs,
    method_runs,
    plain_runs,
    run_folder,
)
from utils.leaderboard.results import choose_shares, paired, rows
from utils.leaderboard.results import write_scores as write_stored


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


def test_a_constant_gain_has_a_narrow_interval_and_its_share_of_the_gap():
    random = np.random.default_rng(0)
    theirs = random.uniform(0.4, 0.6, (3, 20))
    gain, closed = paired(theirs + 0.1, theirs, theirs.mean(0) + 0.2)
    assert (gain.mean, gain.low, gain.high) == pytest.approx((0.1, 0.1, 0.1))
    # 0.1 of a gap of 0.2; seeds and cases move the plain mean and with it the gap
    assert closed[0] == pytest.approx(0.5) and closed[1] < 0.5 < closed[2]
    exact = paired(theirs + 0.1, theirs, theirs[0] + 0.2)[1], paired(theirs[:1] + 0.1, theirs[:1], theirs[0] + 0.2)[1]
    assert exact[1] == pytest.approx((0.5, 0.5, 0.5)) != exact[0]


def test_a_gain_of_noise_includes_zero_and_no_gap_has_no_share():
    random = np.random.default_rng(0)
    theirs, ours = random.normal(0.5, 0.1, (2, 3, 20))
    gain, closed = paired(ours, theirs, theirs.mean(0) - 0.2)
    assert gain.low < 0 < gain.high and gain.verdict == "no measurable difference"
    assert np.isnan(closed).all()


def test_the_methods_of_a_student_are_corrected_for_their_number_and_their_scores_are_stored(tmp_path):
    methods = ["hinton", "emkd", "hlfd"]
    plan = plan_of(tmp_path, methods=methods, calibration=None, seeds=[0])
    noise = np.array([1, -1, 2, -2, 3, -3, 1, -1]) / 100
    write_scores(tmp_path / "teacher", [0.9] * 8)
    for method, gain in (("plain", 0 * noise), ("hinton", 0.02 + noise), ("emkd", 0.2 + noise), ("hlfd", noise)):
        write_scores(run_folder(plan, "small", method, 0), list(0.5 + gain))
    verdicts = {row["method"]: row["verdict"] for row in rows(plan, {})[2:]}
    # p of t = 0.02 / (0.0225 / sqrt 8) with 7 degrees is 0.04: a claim alone, and 0.08 as the second of three
    assert verdicts == {"emkd": "better", "hinton": "no measurable difference", "hlfd": "no measurable difference"}
    alone = plan_of(tmp_path, methods=["hinton"], calibration=None, seeds=[0])
    assert rows(alone, {})[2]["verdict"] == "better"
    write_stored(tmp_path / "scores.csv", plan, {})
    lines = (tmp_path / "scores.csv").read_text().splitlines()
    assert lines[0] == "student,method,seed,case,patient,dice" and len(lines) == 1 + 5 * 8
    assert {"teacher,,0,c0,c0,0.9", "small,hinton,0,c1,c1,0.51"} <= set(lines)


def test_a_student_may_choose_the_shares_of_all(tmp_path):
    students = {name: {"name": "unet", "widths": [4, 4, 4, 4, 4]} for name in ("small", "large")}
    plan = plan_of(tmp_path, methods=["hinton"], students=students, calibration=Calibration([0.5, 2.0], [], "large"))
    assert {run.name for run in calibration_runs(plan)} == {"large/hinton/share 0.5", "large/hinton/share 2"}
    for share, dice in (("0.5", 0.3), ("2", 0.4)):
        folder = tmp_path / f"board/large/hinton/share_{share}"
        folder.mkdir(parents=True)
        (folder / "history.csv").write_text(f"epoch,dice\n1,{dice}\n")
    assert choose_shares(plan) == {("small", "hinton"): 2.0, ("large", "hinton"): 2.0}


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


def write_record(plan, run, done=True):
    (run.folder / "leaderboard.json").write_text(json.dumps({"identity": fingerprint(plan, run), "done": done}))


def test_what_another_plan_recipe_or_teacher_left_in_the_output_is_not_in_the_table(tmp_path):
    (tmp_path / "mine.yaml").write_text("distillation: []")
    mine = {"methods": [str(tmp_path / "mine.yaml")], "calibration": None}
    plan = plan_of(tmp_path, **mine)
    write_scores(tmp_path / "teacher", [0.9] * 4)
    plan.teacher_checkpoint.write_bytes(b"first")
    for run in plain_runs(plan) + method_runs(plan, {("small", plan.methods[0]): 3.0}):
        write_scores(run.folder, [0.5] * 4)
        write_record(plan, run)

    def seeds(share=3.0, **changes):
        return [row["seeds"] for row in rows(plan_of(tmp_path, **mine, **changes), {("small", plan.methods[0]): share})]

    assert seeds() == [1, 2, 2] and seeds(share=1.0) == [1, 2, 0]
    assert seeds(flags=["--training.epochs=9"]) == [1, 0, 0]
    plan.teacher_checkpoint.write_bytes(b"trained again")
    assert seeds() == [1, 2, 0]
    plan.teacher_checkpoint.write_bytes(b"first")
    (tmp_path / "mine.yaml").write_text("distillation: []  # a comment")
    assert seeds() == [1, 2, 2]
    (tmp_path / "mine.yaml").write_text("distillation: [{name: soft_target}]")
    assert seeds() == [1, 2, 0]


def test_a_calibration_that_stopped_half_way_chooses_nothing(tmp_path):
    plan = plan_of(tmp_path, methods=["hinton"], calibration=Calibration([0.5, 2.0]))
    (tmp_path / "teacher").mkdir()
    plan.teacher_checkpoint.write_bytes(b"teacher")
    for run in calibration_runs(plan):
        run.folder.mkdir(parents=True)
        (run.folder / "history.csv").write_text("epoch,dice\n1,0.4\n")
        write_record(plan, run)
    assert choose_shares(plan) == {("small", "hinton"): 0.5}
    write_record(plan, run, done=False)
    assert choose_shares(plan) == {}


def test_one_score_has_no_interval(tmp_path):
    plan = plan_of(tmp_path, methods=["hinton"], calibration=None, seeds=[0])
    for folder in (tmp_path / "teacher", *(run.folder for run in plain_runs(plan) + method_runs(plan))):
        write_scores(folder, [0.5])
    assert rows(plan, {})[2]["dice"] == 0.5 and "verdict" not in rows(plan, {})[2]
