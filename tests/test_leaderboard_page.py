"""The leaderboard's page: the headline follows the figures, nothing missing breaks it, all students share an axis."""

import json
import re
from dataclasses import asdict

import pytest
import yaml
from report_runs import Checker

from scripts import leaderboard
from utils.leaderboard.page import gain_axis, write_leaderboard
from utils.leaderboard.plan import Plan, read_plan, run_folder
from utils.leaderboard.verdicts import chosen, headline, readable
from utils.recipe.schema import ROOT

TEACHER = {"student": "teacher", "method": "", "seeds": 1, "dice": 0.8}


def plan_of(folder, **changes):
    values = {
        "output": str(folder / "board"),
        "student_config": str(ROOT / "configs/phantom_student.yaml"),
        "students": {"enet": {"name": "enet"}, "small": {"name": "unet", "widths": [4, 4, 4, 4, 4]}},
        "methods": ["hinton", "emkd"],
        "teacher": str(folder / "teacher/best.ckpt"),
    }
    return Plan(**values | changes)


def plain(student, dice=0.4, **more):
    return {"student": student, "method": "plain", "seeds": 3, "dice": dice, "ms_per_image": 10.0, **more}


def method(student, name, gain, half=0.05, gap=0.4, **more):
    """A row whose gain has an interval of `half` to both sides."""
    ends = {"": gain, "_low": gain - half, "_high": gain + half}
    figures = {f"gain{end}": value for end, value in ends.items()}
    figures |= {f"closed{end}": value / gap for end, value in ends.items()}
    verdict = "better" if gain > half else "worse" if gain < -half else "no measurable difference"
    row = {"student": student, "method": name, "seeds": 3, "dice": 0.4 + gain, "val_dice": 0.4 + gain}
    return {**row, "verdict": verdict, **figures, **more}


def unfinished(student, name):
    return {"student": student, "method": name, "seeds": 0, "dice": None, "dice_sd": None, "ms_per_image": None}


def page(tmp_path, table, problems=(), **changes):
    file = tmp_path / "leaderboard.html"
    write_leaderboard(file, plan_of(tmp_path, **changes), table, problems)
    return file.read_text()


def test_the_headline_is_the_method_that_is_best_on_val_not_on_test():
    table = [TEACHER, plain("enet"), method("enet", "emkd", 0.2, val_dice=0.6), plain("narrow_unet", 0.6)]
    table += [method("narrow_unet", "hlfd", 0.15, gap=0.2, val_dice=0.5)]
    table += [method("narrow_unet", "emkd", 0.1, gap=0.2, val_dice=0.7), method("enet", "hlfd", 0.3, val_dice=0.3)]
    # emkd: 0.2 of 0.4 is 50 %, 0.15 and 0.25 are 38 and 62 %; 0.1 of 0.2 is 50 %, 0.05 and 0.15 are 25 and 75 %
    assert headline(table) == (
        "EMKD, the best on val, closes 50 % [38, 62] of the gap between ENet alone (0.400) and its teacher (0.800), "
        "and closes 50 % [25, 75] of the gap between Narrow U-Net alone (0.600) and its teacher (0.800)."
    )


def test_a_method_that_not_all_students_have_is_not_chosen():
    table = [TEACHER, plain("enet"), plain("small"), method("enet", "hlfd", 0.2, val_dice=0.9)]
    table += [method(student, "emkd", 0.2, val_dice=0.5) for student in ("enet", "small")]
    assert chosen(table) == "emkd"


def test_a_method_of_fewer_seeds_is_not_chosen():
    table = [TEACHER, plain("enet"), method("enet", "hlfd", 0.2, val_dice=0.9, seeds=1)]
    assert chosen(table) == "hlfd"
    assert chosen([*table, method("enet", "emkd", 0.2, val_dice=0.5)]) == "emkd"


@pytest.mark.parametrize(
    ("gain", "said"),
    [
        (0.02, "EMKD, the best on val, makes no measurable difference to ENet alone (0.400)."),
        (-0.2, "EMKD, the best on val, is worse than ENet alone (0.400): -0.200 [-0.250, -0.150]."),
    ],
)
def test_the_headline_says_plainly_that_the_method_does_not_help(gain, said):
    lucky = method("enet", "hinton", 0.2, val_dice=0.1)
    rows = [method("enet", "emkd", gain, val_dice=0.5), lucky, unfinished("enet", "late")]
    assert headline([TEACHER, plain("enet"), *rows]) == said


def test_better_without_a_gap_is_told_without_a_share(tmp_path):
    nothing = dict.fromkeys(("closed", "closed_low", "closed_high"), float("nan"))
    table = [TEACHER | {"dice": 0.39}, plain("enet"), method("enet", "emkd", 0.1) | nothing]
    expected = (
        "EMKD, the best on val, gains +0.100 [+0.050, +0.150] over ENet alone (0.400), whose teacher leaves no gap."
    )
    assert headline(table) == expected
    assert "nan" not in Checker(page(tmp_path, table)).words


def test_methods_are_counted_for_each_student(tmp_path):
    table = [TEACHER, plain("enet"), method("enet", "a", 0.2, half=0.06), method("enet", "b", 0.1)]
    table += [method("enet", "c", 0.0)]
    table += [method("enet", "d", -0.2), unfinished("enet", "e"), plain("small"), method("small", "a", -0.1)]
    words = Checker(page(tmp_path, table)).words
    assert "2 better 1 no measurable difference 1 worse 1 not compared" in words
    assert "0 better 0 no measurable difference 1 worse" in words
    assert "A: +0.200 [+0.140, +0.260], 50 % [35, 65] of the gap" in words


def test_every_text_from_outside_is_escaped(tmp_path):
    bad = "<script>alert('x')</script>&"
    table = [TEACHER, plain(bad, **{f"dice/{bad}": 0.5}), method(bad, bad, 0.2), plain(f"{bad}2")]
    table.append(plain(bad) | {"method": f"plain: {bad}"})
    content = page(
        tmp_path,
        table,
        [f"run {bad}"],
        students={bad: {"name": bad}},
        flags=[bad],
        controls={bad: [bad]},
        teacher=bad,
        output=str(tmp_path / "bo<b>ard"),
    )
    checked = Checker(content)
    assert "script" not in checked.tags and "<script" not in content and "<b>ard" not in content
    assert f"run {bad}" in checked.words


def test_the_page_is_whole_where_nothing_has_finished(tmp_path):
    table = [TEACHER]
    for student in ("enet", "small"):
        table += [{"student": student, "method": "plain", "seeds": 0}, unfinished(student, "hinton")]
    checked = Checker(page(tmp_path, table, ["enet/hinton/0: exit status 1: out of memory"]))
    assert "circle" not in checked.tags and "the runs have not finished" in checked.words
    assert checked.words.count("not finished") == 4 + 1  # the rows, the headline
    assert "None" not in checked.words and "nan" not in checked.words
    assert "Runs that failed" in checked.words and "out of memory" in checked.words
    assert {"summary", "student-1", "student-2", "measured", "top"} == set(checked.ids)
    assert not checked.addresses  # one file
    assert "Runs that failed" not in page(tmp_path, table)


def test_even_an_empty_table_is_told(tmp_path):
    assert "No method can be compared" in Checker(page(tmp_path, [])).words


def test_a_method_without_its_plain_run_and_one_of_some_seeds_say_so(tmp_path):
    lost = {"student": "enet", "method": "hinton", "seeds": 3, "dice": 0.5}
    table = [TEACHER, plain("enet"), method("enet", "emkd", 0.2, seeds=2), lost]
    words = Checker(page(tmp_path, table)).words
    assert "2 of 3 seeds" in words and words.count("of 3 seeds") == 1
    assert "no plain run of its seeds" in words


def test_the_verdict_of_a_row_is_that_of_its_figures(tmp_path):
    table = [TEACHER, plain("enet"), method("enet", "a", 0.2), method("enet", "b", 0.0), method("enet", "c", -0.2)]
    content = page(tmp_path, table)
    found = re.findall(
        r'<th scope="row">([ABC])</th>.*?<span class="verdict (\w+)">([\w ]+)</span>', content, re.DOTALL
    )
    assert found == [("A", "good", "better"), ("B", "none", "no measurable difference"), ("C", "bad", "worse")]


def drawn(content):
    """Center of each interval by student's color, and where 0 is drawn."""
    centers = re.findall(r'<circle cx="([\d.]+)%".*?fill:var\((--hue-\d)\)', content)
    return [(color, float(center)) for center, color in centers], set(
        re.findall(r'class="zero" x1="([\d.]+)%"', content)
    )


def test_all_students_are_drawn_on_one_axis_with_zero(tmp_path):
    table = [TEACHER, plain("enet"), method("enet", "a", 0.35), plain("small"), method("small", "a", 0.25)]
    places, zeros = drawn(page(tmp_path, table))
    # intervals from 0.2 to 0.4, with 0: the axis is 0 to 0.4
    assert places == [("--hue-1", 87.5), ("--hue-2", 62.5)] and zeros == {"0.00"}
    axis = gain_axis([method("enet", "a", 0.3), method("small", "a", -0.35)])
    assert axis.low == pytest.approx(-0.4) and axis.high == pytest.approx(0.4)


def row_of(content, name):
    line = next(line for line in re.findall(r"<tr>.*?</tr>", content, re.DOTALL) if f'<th scope="row">{name}<' in line)
    return [
        re.sub(r"<.*?>", " ", cell, flags=re.DOTALL).split() for cell in re.findall(r"<td.*?</td>", line, re.DOTALL)
    ]


def heads(content):
    return re.findall(r'<th scope="col".*?>(.*?)</th>', content)


def test_figures_stand_in_the_columns_of_their_names(tmp_path):
    more = {"dice_sd": 0.012, "dice/kidney": 0.91, "dice/tumor": 0.29, "ranked": 0.61, "share": 4.0, "val_dice": 0.37}
    row = method("enet", "emkd", 0.2, half=0.06, ms_per_image=25.0, **more)
    table = [TEACHER | {"dice/kidney": 0.95}, plain("enet"), row, plain("enet", 0.9) | {"method": "plain: organ"}]
    content = page(tmp_path, table, students={"enet": {"name": "enet"}})
    names = heads(content)
    assert names[6:] == ["val", "kidney", "tumor", "ranked", "weight", "ms/image"]
    cells = dict(zip(names[1:], row_of(content, "EMKD"), strict=True))
    assert cells["Dice"] == ["0.600", "±", "0.012"] and cells["gain"] == ["+0.200", "+0.140", "…", "+0.260"]
    assert cells["gap closed"] == ["50", "%", "35", "…", "65"] and cells["verdict"] == ["better"]
    assert cells["kidney"] == ["0.910"] and cells["tumor"] == ["0.290"] and cells["ranked"] == ["0.610"]
    assert cells["val"] == ["0.370"] and cells["weight"] == ["4"]
    assert cells["ms/image"] == ["25.0", "2.50\u00d7"]  # 25 of 10 ms
    teacher = dict(zip(names[1:], row_of(content, "Teacher"), strict=True))
    assert teacher["kidney"] == ["0.950"] and teacher["tumor"] == ["\u2013"] and teacher["verdict"] == ["teacher"]


def test_columns_that_hold_nothing_are_left_out(tmp_path):
    table = [TEACHER, plain("enet"), method("enet", "emkd", 0.2, val_dice=None)]
    table[-1] |= {"dice/tumor": None, "ranked": float("nan")}
    content = page(tmp_path, table, students={"enet": {"name": "enet"}})
    assert heads(content) == ["method", "Dice", *heads(content)[2:6], "ms/image"]


def test_controls_stand_with_the_student_alone_and_are_no_method(tmp_path):
    control = plain("enet", 0.99) | {"method": "plain: tumor labels only", "dice": None}
    table = [TEACHER, plain("enet"), method("enet", "emkd", 0.2), control]
    content = page(tmp_path, table, students={"enet": {"name": "enet"}})
    rows = re.findall(r'<th scope="row">(.*?)</th>', content)
    assert rows == ["Teacher", "ENet alone", "ENet alone<br><small>tumor labels only</small>", "EMKD"]
    words = Checker(content).words
    assert "1 better 0 no measurable difference 0 worse" in words and "not compared" not in words


def test_the_plan_on_the_page_is_the_plan(tmp_path):
    plan = plan_of(
        tmp_path,
        flags=["--data.crop=64"],
        student_flags={"small": ["--training.epochs=9"]},
        controls={"organ": ["--data.task=organ"]},
        seeds=[3, 4],
    )
    write_leaderboard(tmp_path / "x.html", plan, [TEACHER])
    words = Checker((tmp_path / "x.html").read_text()).words
    (tmp_path / "again.yaml").write_text(words[words.rindex("the planoutput: ") + len("the plan") :])
    assert read_plan(tmp_path / "again.yaml") == plan
    assert "python scripts/leaderboard.py board.yaml" in words


def test_how_it_was_measured_tells_data_flags_seeds_and_weights(tmp_path):
    words = Checker(page(tmp_path, [TEACHER], flags=["--data.crop=48"], seeds=[5, 6])).words
    section = yaml.safe_load((ROOT / "configs/phantom_student.yaml").read_text())["data"]
    assert f"root: {section['root']}" in words and "window: [-200, 300]" in words
    assert "Flags of all students--data.crop=48" in words and "Seeds5, 6" in words
    assert "with each of 0.3, 1, 3 times the task loss's gradient norm, on seed 1000" in words
    assert "4 intervals of 95 %: 0.2 or more would exclude zero" in words  # 2 students x 2 methods x 0.05
    words = Checker(page(tmp_path, [TEACHER], calibration=None, student_config=str(tmp_path / "gone.yaml"))).words
    assert "those of the method files" in words and "gone.yaml" in words


def test_test_cases_are_counted_where_the_teacher_has_read_test(tmp_path):
    assert "test case" not in page(tmp_path, []).partition("<nav")[0]
    (tmp_path / "teacher").mkdir()
    rows = [f'{{"case": "{case}", "class": "x", "dice": 0.5}}' for case in "abc"]
    (tmp_path / "teacher/test.json").write_text(f'{{"rows": [{", ".join(rows)}]}}')
    assert "2 methods, 2 students, 3 seeds, 3 test cases" in page(tmp_path, [])


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("hlfd_as_published", "HLFD as published"),
        ("narrow_unet", "Narrow U-Net"),
        ("dice_semimetric", "Dice semimetric"),
    ],
)
def test_names_can_be_read(name, shown):
    assert readable(name) == shown


def write_scores(folder, dice):
    folder.mkdir(parents=True)
    cases = [{"case": case, "class": "x", "dice": dice} for case in "abcdef"]  # a claim needs six
    (folder / "test.json").write_text(json.dumps({"rows": cases, "scores": {"dice": dice, "dice/x": dice}}))
    (folder / "history.csv").write_text(f"epoch,dice\n1,{dice - 0.1}\n2,{dice - 0.2}\n")


def test_the_script_writes_the_page_beside_the_table(tmp_path, capsys):
    plan = plan_of(tmp_path, students={"enet": {"name": "enet"}}, methods=["emkd"], seeds=[0, 1], calibration=None)
    write_scores(tmp_path / "teacher", 0.9)
    for seed in plan.seeds:
        write_scores(run_folder(plan, "enet", "plain", seed), 0.5)
        write_scores(run_folder(plan, "enet", "emkd", seed), 0.7)
    (tmp_path / "plan.yaml").write_text(
        yaml.safe_dump({key: what for key, what in asdict(plan).items() if what or what is None})
    )
    assert leaderboard.main([str(tmp_path / "plan.yaml"), "--table"]) == 0
    written = tmp_path / "board/leaderboard.html"
    assert str(written) in capsys.readouterr().out and (tmp_path / "board/leaderboard.csv").is_file()
    # constant Dice: 0.2 of a gap of 0.4 in every draw
    expected = "EMKD, the best on val, closes 50 % [50, 50] of the gap between ENet alone (0.500) and its teacher"
    assert expected in Checker(written.read_text()).words
    assert not list((tmp_path / "board").glob(".*"))
