"""The one rule: what a difference is called, and the intervals that it asks."""

import csv

import numpy as np
import pytest
from leaderboard_plans import plan_of
from run_folders import dice_rows, write_run
from scipy.stats import ttest_1samp

from scripts import compare, evaluate
from utils.evaluation.statistics import bootstrap, case_interval, difference_interval, judge
from utils.evaluation.statistics import compare as compare_scores
from utils.leaderboard.plan import run_folder
from utils.leaderboard.results import rows as leaderboard_rows
from utils.recipe.schema import ROOT
from utils.report.gains import gain
from utils.runs.groups import Group
from utils.runs.run import read_run


@pytest.mark.parametrize(
    ("interval", "differing", "seeds", "words"),
    [
        ((0.02, 0.01, 0.03), 6, (0.02,), "better"),
        ((-0.02, -0.03, -0.01), 6, (-0.01, -0.03), "worse"),
        ((0.02, 0.0, 0.03), 6, (0.02,), "no measurable difference"),
        ((0.02, -0.01, 0.03), 40, (0.02,), "no measurable difference"),
        ((0.02, 0.01, 0.03), 5, (0.02,), "no measurable difference (cases that differ: 5, a claim needs 6)"),
        ((0.02, 0.01, 0.03), 6, (0.05, -0.01), "no measurable difference (seeds differ in sign)"),
        ((0.02, 0.01, 0.03), 6, (0.04, 0.0), "no measurable difference (seeds differ in sign)"),
        ((0.0009, 0.0008, 0.001), 6, (0.0009,), "no measurable difference (less than 0.001)"),
        ((0.02, float("nan"), float("nan")), 6, (0.02,), "not defined: its interval is not defined"),
        ((float("nan"), 0.0, 0.1), 6, (), "not defined: its interval is not defined"),
    ],
)
def test_what_a_difference_is_called(interval, differing, seeds, words):
    assert judge(interval, differing, seeds).words == words


def test_lower_is_better_for_distances():
    assert judge((-2.0, -3.0, -1.0), 9, higher_is_better=False).verdict == "better"


def test_the_interval_of_one_seed_is_students_t():
    values = np.array([0.0, 0.1, 0.3, 0.35, 0.9])
    low, high = ttest_1samp(values, 0).confidence_interval()
    assert case_interval(values) == pytest.approx((values.mean(), low, high))
    assert case_interval(values, list("abcde")) == pytest.approx((values.mean(), low, high))
    assert case_interval(np.full(4, 0.25)) == (0.25, 0.25, 0.25)
    assert np.isnan(case_interval(np.array([0.3]))[1:]).all()


def test_cases_of_one_patient_count_as_one_where_each_has_as_many():
    means = np.array([0.1, 0.4, 0.2, 0.6])
    twice = np.repeat(means, 2) + np.tile([-0.05, 0.05], 4)
    assert case_interval(twice, [f"p{number // 2}" for number in range(8)]) == pytest.approx(case_interval(means))
    assert case_interval(twice)[1] > case_interval(means)[1]  # narrower, as if there were eight patients


def test_an_interval_of_one_seed_covers_as_it_says():
    draws = np.random.default_rng(0).normal(0.2, 1, (1000, 9))
    assert 0.93 < np.mean([low < 0.2 < high for _, low, high in map(case_interval, draws)]) < 0.97


def test_other_seeds_are_drawn_apart():
    # all cases alike, gains by seed -0.1 and 0.1 against seeds at 0 and 0.2: one of two is drawn of each. Together the
    # difference is -0.1 in every draw; apart it is -0.3, -0.1 or 0.1.
    ours, theirs = (np.repeat(np.array(seeds)[:, None], 8, axis=1) for seeds in ([-0.1, 0.1], [0.0, 0.2]))
    assert difference_interval(ours, theirs, same_seeds=True) == pytest.approx((-0.1, -0.1, -0.1))
    assert difference_interval(ours, theirs, same_seeds=False) == pytest.approx((-0.1, -0.3, 0.1))


def test_a_score_that_few_resamples_define_has_no_interval():
    def first_only(where):  # the mean where image 0 was drawn
        return float(where.mean()) if 0 in where else float("nan")

    low, _, share = bootstrap(first_only, 10, 500)  # (9 / 10)^10: 35 % without it
    assert np.isnan(low) and share == pytest.approx(0.65, abs=0.05)
    low, high, share = bootstrap(lambda where: float(where.mean()), 10, 500)
    assert low < 4.5 < high and share == 1.0


SCORES = {
    "better in all": lambda noise: 0.05 + 0.01 * noise,
    "noise": lambda noise: 0.05 * noise,
    "worse": lambda noise: -0.03 + 0.01 * noise,
    "less than 0.001": lambda noise: 0.0005 + 0.0001 * noise,
}


@pytest.mark.parametrize("cases", [5, 9])
@pytest.mark.parametrize("kind", SCORES)
def test_every_command_says_the_same(tmp_path, capsys, monkeypatch, kind, cases):
    monkeypatch.setattr("utils.leaderboard.results.RESAMPLES", 100)  # of the gap closed; a seed has t
    noise = np.random.default_rng(cases).normal(size=cases)
    noise -= noise.mean()
    plain = {f"case_{number}": value for number, value in enumerate(np.linspace(0.4, 0.6, cases))}
    other = dict(zip(plain, np.array(list(plain.values())) + SCORES[kind](noise), strict=True))
    plan = plan_of(tmp_path, methods=["emkd"], seeds=[0], calibration=None)
    alone, taught = (run_folder(plan, "small", method, 0) for method in ("plain", "emkd"))
    write_run(tmp_path / "teacher", dice_rows(dict.fromkeys(plain, 0.9)), 9)
    write_run(alone, dice_rows(plain), 0, 1)
    write_run(taught, dice_rows(other), 0, 2)
    expected = compare_scores(*(np.array([list(each.values())]) for each in (other, plain)))

    assert compare.main([f"alone={alone}", f"taught={taught}", "--against", "alone"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("taught - alone"))
    named = f"taught is {expected.words}" if expected.verdict in ("better", "worse") else expected.words
    assert line.endswith(f"one seed: {named}")

    assert evaluate.main(["--compare", f"{taught}/test.json", f"{alone}/test.json", "--scores", "dice"]) == 0
    said = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("tumor"))
    assert said.endswith(expected.words.replace("cases that", "patients that"))
    ends = f"[{expected.low:+.3f}, {expected.high:+.3f}]"
    assert ends in line and ends in said

    groups = [Group(name, "plain", (read_run(folder)[0],)) for name, folder in (("taught", taught), ("alone", alone))]
    found = gain(*groups, "mean Dice")
    assert (found.verdict, found.why, found.estimate.low) == (expected.verdict, expected.why, expected.low)

    row = next(row for row in leaderboard_rows(plan, {}) if row["method"] == "emkd")
    assert (row["verdict"], row["gain_low"]) == (expected.verdict, pytest.approx(expected.low))
    assert expected.verdict == {"better in all": "better", "worse": "worse"}.get(
        kind if cases > 5 else "", "no measurable difference"
    )


def test_several_seeds_are_judged_alike_by_leaderboard_and_compare(tmp_path, capsys):
    plan = plan_of(tmp_path, methods=["emkd"], seeds=[0, 1, 2], calibration=None)
    generator = np.random.default_rng(0)
    cases = [f"case_{number}" for number in range(8)]
    write_run(tmp_path / "teacher", dice_rows(dict.fromkeys(cases, 0.9)), 9)
    for seed in plan.seeds:
        plain = generator.uniform(0.4, 0.6, 8)
        gained = plain + generator.normal(0.05, 0.03, 8)
        for number, (method, values) in enumerate((("plain", plain), ("emkd", gained))):
            write_run(
                run_folder(plan, "small", method, seed),
                dice_rows(dict(zip(cases, values, strict=True))),
                seed,
                5 * seed + number,
            )
    row = next(row for row in leaderboard_rows(plan, {}) if row["method"] == "emkd")
    runs = {
        method: ",".join(str(run_folder(plan, "small", method, seed)) for seed in plan.seeds)
        for method in ("plain", "emkd")
    }
    assert compare.main([f"plain={runs['plain']}", f"emkd={runs['emkd']}", "--against", "plain"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("emkd - plain"))
    assert f"[{row['gain_low']:+.3f}, {row['gain_high']:+.3f}]" in line and line.endswith(f"emkd is {row['verdict']}")


def test_the_published_verdicts_are_those_of_the_rule():
    for file in sorted((ROOT / "docs/leaderboards").glob("*.csv")):
        with file.open(newline="") as lines:
            for row in csv.DictReader(lines):
                if row["verdict"]:
                    interval = tuple(float(row[name]) for name in ("gain", "gain_low", "gain_high"))
                    assert judge(interval, 8).verdict == row["verdict"], (file.name, row["method"])
