"""A report pools and replaces nothing that is not its own; a leaderboard is alone in its folder."""

import errno
import json

import numpy as np
import pytest
import yaml
from leaderboard_plans import plan_of
from run_folders import dice_rows, write_run

from datasets.files import alone_in
from scripts import leaderboard, report
from utils.leaderboard.plan import run_folder
from utils.leaderboard.results import rows as leaderboard_rows
from utils.report.facts import Wanted, gather
from utils.report.gains import estimate
from utils.runs.groups import group_runs
from utils.runs.results import test_command as command_of
from utils.runs.run import of_one_dataset, once_each, read_run
from utils.training import checkpoints

DICE = {f"case_{number}": 0.5 + 0.02 * number for number in range(8)}


def runs_of(*folders):
    return [read_run(folder)[0] for folder in folders]


def gathered(tmp_path, *folders):
    wanted = Wanted(list(folders), tmp_path / "r.html", [], None, None, False, 1, 0, None, [])
    return gather(wanted, lambda line: None)


def without_curves(notes):
    """The notes but for those that these runs have no learning curves."""
    return [note for note in notes if "no learning curves" not in note]


def test_runs_of_other_targets_are_left_out_and_named(tmp_path):
    changed = dict.fromkeys(DICE, 100) | {"case_3": 7}
    folders = [write_run(tmp_path / "a", dice_rows(DICE, changed), 0)]
    folders += [write_run(tmp_path / name, dice_rows(DICE), ord(name)) for name in "bc"]
    found = gathered(tmp_path, *folders)
    assert [[run.folder.name for run in group.runs] for group in found.groups] == [["b", "c"]]
    (note,) = without_curves(found.notes)
    assert note.startswith(f"{tmp_path}/a: left out: case_3, tumor: the target of {tmp_path}/b has 100 voxels, that of")


def test_a_run_that_is_there_twice_is_counted_once(tmp_path):
    run = write_run(tmp_path / "a", dice_rows(DICE), 0)
    (tmp_path / "link").symlink_to(run)
    other = write_run(tmp_path / "b", dice_rows(DICE), 0, weights_seed=3)
    kept, notes = once_each(runs_of(run, tmp_path / "link", other))
    assert [each.folder for each in kept] == [run, other]
    assert notes == [f"{tmp_path}/link: is the same run as {run}: left out, it is not a further seed"]
    assert "have the same seed 0; both are counted" in gathered(tmp_path, run, other).notes[0]


def test_runs_scored_on_val_or_on_other_images_are_no_seeds_of_those_on_test(tmp_path):
    folders = [write_run(tmp_path / name, dice_rows(DICE), ord(name), data_fingerprint="f") for name in "ab"]
    folders.append(write_run(tmp_path / "c", dice_rows(DICE), 3, data_fingerprint="g"))
    folders.append(write_run(tmp_path / "d", dice_rows(DICE), 4))
    (tmp_path / "d/test.json").unlink()
    kept, notes = of_one_dataset(runs_of(*folders))
    assert notes == []
    groups = group_runs(kept)
    assert sorted(sorted(run.folder.name for run in group.runs) for group in groups) == [["a", "b"], ["c"], ["d"]]


def test_a_run_that_cannot_be_read_is_named_and_the_rest_goes_on(tmp_path, monkeypatch):
    folders = [write_run(tmp_path / name, dice_rows(DICE), ord(name)) for name in "ab"]

    def closed(folder):
        if folder.name == "a":
            raise PermissionError(errno.EACCES, "Permission denied", str(folder / "best.ckpt"))
        return read_run(folder)

    monkeypatch.setattr("utils.report.facts.read_run", closed)
    found = gathered(tmp_path, *folders)
    assert [group.first.folder.name for group in found.groups] == ["b"]
    assert without_curves(found.notes) == [
        f"{tmp_path}/a/best.ckpt: Permission denied: ask for the permission (chmod), or choose another place"
    ]


def test_one_case_has_a_mean_and_no_interval(tmp_path):
    (group,) = group_runs(runs_of(write_run(tmp_path / "a", dice_rows({"x": 0.5}), 0)))
    found = estimate(group, "mean Dice")
    assert found.mean == 0.5 and np.isnan(found.low)
    output = tmp_path / "r.html"
    assert report.main(["--runs", str(tmp_path / "a"), "--output", str(output), "--no_latency", "--cases", "0"]) == 1
    page = output.read_text()
    assert "interval not defined" in page and "nan" not in page.replace("tenant", "")


def test_a_page_of_somebody_else_is_not_replaced(tmp_path, capsys):
    run = write_run(tmp_path / "a", dice_rows(DICE), 0)
    foreign = tmp_path / "mine.html"
    foreign.write_text("<html>my thesis</html>")
    arguments = ["--runs", str(run), "--no_latency", "--cases", "0", "--output"]
    assert report.main([*arguments, str(foreign)]) == 2
    assert f"{foreign}: is there already, and this program did not write it" in capsys.readouterr().err
    assert foreign.read_text() == "<html>my thesis</html>"
    for title in ("t", "u"):  # an earlier page is
        assert report.main([*arguments, str(tmp_path / "ours.html"), "--title", title]) == 1
    assert "<h1>u</h1>" in (tmp_path / "ours.html").read_text()


def board(tmp_path, other_voxels=100):
    plan = plan_of(tmp_path, methods=["emkd"], seeds=[0], calibration=None)
    write_run(tmp_path / "teacher", dice_rows(DICE), 9)
    write_run(
        run_folder(plan, "small", "plain", 0), dice_rows(DICE, dict.fromkeys(DICE, 100) | {"case_1": other_voxels}), 1
    )
    write_run(run_folder(plan, "small", "emkd", 0), dice_rows(DICE), 2)
    file = tmp_path / "plan.yaml"
    known = {"output": plan.output, "student_config": plan.student_config, "students": plan.students}
    known |= {"methods": ["emkd"], "seeds": [0], "calibration": None, "teacher": plan.teacher}
    file.write_text(yaml.safe_dump(known))
    return plan, file


def test_a_leaderboard_compares_runs_of_one_target(tmp_path, capsys):
    _, file = board(tmp_path, 99)
    assert leaderboard.main([str(file), "--table"]) == 2
    told = capsys.readouterr().err
    assert "case_1, tumor: the target of the teacher has 100 voxels, that of" in told and told.count("\n") == 1


@pytest.mark.parametrize("text", ["", "{", "[]", '{"rows": 1}', '{"rows": []}', '{"rows": [{"case": 1}]}'])
def test_a_leaderboard_names_a_damaged_result(tmp_path, capsys, text):
    plan, file = board(tmp_path)
    result = run_folder(plan, "small", "emkd", 0) / "test.json"
    result.write_text(text)
    assert leaderboard.main([str(file), "--table"]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"leaderboard: {result}: ") and told.count("\n") == 1


def test_a_leaderboard_refuses_scores_of_earlier_weights(tmp_path):
    plan, _ = board(tmp_path)
    result = run_folder(plan, "small", "emkd", 0) / "test.json"
    result.write_text(json.dumps(json.loads(result.read_text()) | {"checkpoint_sha256": "0" * 64}))
    with pytest.raises(ValueError, match="is of another best"):
        leaderboard_rows(plan, {})


def test_a_leaderboard_replaces_only_its_own_table_and_page(tmp_path, capsys):
    plan, file = board(tmp_path)
    assert leaderboard.main([str(file), "--table"]) == 0
    assert leaderboard.main([str(file), "--table"]) == 0
    for name in ("leaderboard.csv", "leaderboard.html"):
        written = (plan.folder / name).read_bytes()
        (plan.folder / name).write_text("mine")
        assert leaderboard.main([str(file), "--table"]) == 2
        assert f"{plan.folder / name}: is there already, and this program did not write it" in capsys.readouterr().err
        assert (plan.folder / name).read_text() == "mine"
        (plan.folder / name).write_bytes(written)


def test_two_leaderboards_do_not_train_in_one_folder(tmp_path, capsys):
    plan, file = board(tmp_path)
    with alone_in(plan.folder):
        assert leaderboard.main([str(file)]) == 2
    assert f"{plan.folder}: another command is writing to it" in capsys.readouterr().err


def test_seeds_whose_weights_were_scaled_differently_are_one_group(tmp_path):
    for seed, factor in ((0, 2.0), (1, 0.3)):
        terms = [{"name": "soft_target", "student": "logits", "teacher": "logits", "weight": 0.7 * factor}]
        teacher = tmp_path / "teacher/best.ckpt"
        folder = write_run(tmp_path / str(seed), dice_rows(DICE), seed, teacher=teacher, terms=terms)
        content = checkpoints.load(folder / "best.ckpt")
        content["recipe"] |= {"distillation_share": None}
        checkpoints.save(content | {"balance": {"share": 3.0, "factor": factor}}, folder / "best.ckpt")
    (group,) = group_runs(runs_of(tmp_path / "0", tmp_path / "1"))
    assert group.seeds == [0, 1]


def test_a_student_that_is_its_own_teacher_is_distilled(tmp_path):
    terms = [{"name": "attention_transfer", "student": "encoder2", "teacher": "self/bottleneck", "weight": 1.0}]
    write_run(tmp_path / "alone", dice_rows(DICE), 0)
    write_run(tmp_path / "itself", dice_rows(DICE), 1, terms=terms)
    plain, distilled = group_runs(runs_of(tmp_path / "itself", tmp_path / "alone"))
    assert (plain.role, distilled.role, distilled.control) == ("plain", "distilled", plain.name)
    assert command_of(distilled.first.folder, distilled.first.recipe).startswith("python train_kd.py ")


def test_groups_of_equal_folder_names_have_names_of_their_own(tmp_path):
    for number, method in enumerate(("a", "b")):
        write_run(tmp_path / method / "seed_0", dice_rows(DICE), number, data_fingerprint=method)
    groups = group_runs(runs_of(tmp_path / "a/seed_0", tmp_path / "b/seed_0"))
    assert [group.name for group in groups] == ["UNet teacher (a/seed_0)", "UNet teacher (b/seed_0)"]
