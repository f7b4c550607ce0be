"""Two evaluations compared: intervals, tests, verdicts, and what is refused."""

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from utils.evaluation.statistics import ENOUGH
from utils.evaluation.volumes.paired_tests import compare


def rows(dice, patients=None, **others):
    """Rows of one class with this Dice in case 0, 1, ..."""
    names = patients or [f"case_{number}" for number in range(len(dice))]
    return [
        {"case": f"case_{number}", "patient": names[number], "class": "tumor", "dice": value, "target_voxels": 5}
        | {name: values[number] for name, values in others.items()}
        for number, value in enumerate(dice)
    ]


def verdict(ours, theirs, **others):
    (line,) = compare(rows(ours), rows(theirs), ["dice"], **others)
    return line


def test_a_gain_in_every_case_is_found_and_noise_is_not():
    generator = np.random.default_rng(0)
    plain = generator.random(20)
    assert (
        verdict(plain + 0.1 + 0.01 * generator.random(20), plain, names=("ours", "theirs"))["verdict"]
        == "ours is better"
    )
    assert verdict(plain, plain + 0.1 + 0.01 * generator.random(20))["verdict"] == "A is worse"
    noise = generator.normal(0, 0.1, 20)
    assert verdict(plain + noise - noise.mean(), plain)["verdict"] == "no measurable difference"
    assert verdict(plain, plain)["verdict"].startswith("no measurable difference")


@pytest.mark.parametrize(("cases", "claimed"), [(ENOUGH - 1, False), (ENOUGH, True)])
def test_no_claim_from_fewer_than_six_cases(cases, claimed):
    line = verdict(np.linspace(0.5, 0.6, cases) + np.linspace(0.1, 0.2, cases), np.linspace(0.5, 0.6, cases))
    assert line["low"] > 0
    assert ("A is better" in line["verdict"]) == claimed


@pytest.mark.parametrize(
    ("loss", "said"), [(1e-6, "less than 0.005"), (4.9e-3, "less than 0.005"), (5.1e-3, "A is better")]
)
def test_what_the_table_would_show_as_nothing_is_no_difference(loss, said):
    dice = np.linspace(0.5, 0.9, 30)
    line = verdict(dice, dice - loss)
    assert line["p"] < 1e-3 and line["low"] > 0  # in every case the same
    assert said in line["verdict"]


def test_equal_results_do_not_differ():
    line = verdict([0.5] * 30, [0.5] * 30)
    assert line["verdict"] == "no measurable difference (cases that differ: 0, at least 6 are needed)"
    assert (line["p"], line["low"], line["high"]) == (1, 0, 0)


def test_lower_distances_are_better():
    distance = np.linspace(1.0, 2.0, 10)
    (line,) = compare(rows(distance, hd95_mm=distance), rows(distance, hd95_mm=distance + distance**2), ["hd95_mm"])
    assert (line["difference"] < 0, line["verdict"]) == (True, "A is better")


@pytest.mark.parametrize(("loss", "said"), [(0.09, "less than 0.1"), (0.11, "A is worse")])
def test_a_tenth_of_a_millimeter_is_the_smallest_difference_of_a_distance(loss, said):
    distance = np.linspace(1.0, 2.0, 10)
    scores = (rows(distance, assd_mm=values) for values in (distance + loss, distance))
    (line,) = compare(*scores, ["assd_mm"])
    assert said in line["verdict"]


def test_p_value_effect_and_counts():
    ours = np.array([0.9, 0.8, 0.7, 0.2, 0.5, 0.61, 0.55, 0.3])
    theirs = np.array([0.5, 0.7, 0.75, 0.0, 0.5, 0.6, 0.5, 0.0])
    line = verdict(ours, theirs)
    assert line["p"] == pytest.approx(ttest_1samp(ours - theirs, 0).pvalue)
    assert (line["higher"], line["lower"], line["patients_that_differ"]) == (6, 1, 7)
    # |differences| .4 .1 .05 .2 .01 .05 .3; ranks 7 4 2.5 5 1 2.5 6 (28): only -.05 is against, (28 - 2 * 2.5) / 28
    assert line["effect"] == pytest.approx((28 - 2 * 2.5) / 28, abs=0.04)


def test_pairs_without_a_distance_are_left_out_and_counted():
    values = [1.0, None, 3.0]
    (line,) = compare(rows([1, 1, 1], hd95_mm=values), rows([1, 1, 1], hd95_mm=[2.0, 2.0, None]), ["hd95_mm"])
    assert (line["cases"], line["left_out"], line["difference"]) == (1, 2, -1)


def test_a_patient_counts_once_however_many_cases_it_has():
    ours = rows(np.linspace(0.6, 0.7, 12), patients=[f"p{number // 4}" for number in range(12)])
    (line,) = compare(ours, rows(np.linspace(0.5, 0.55, 12)), ["dice"])
    assert (line["patients_that_differ"], "patients that differ: 3," in line["verdict"]) == (3, True)


def test_one_pair_has_no_interval():
    (line,) = compare(rows([0.5]), rows([0.4]), ["dice"])
    assert (line["low"], line["high"]) == (None, None)
    assert line["verdict"] == "not defined: too few cases for an interval"


def test_a_claim_hangs_on_no_other_score_of_the_table():
    plain = np.random.default_rng(1).random(8)
    gain = plain + 0.02 + np.array([1, -1, 2, -2, 3, -3, 1, -1]) / 100  # p 0.04
    others = ("voe", "assd_mm", "hd95_mm", "lesion_f1", "abs_rvd", "surface_dice")
    ours, theirs = (rows(dice, **dict.fromkeys(others, plain)) for dice in (gain, plain))
    first, *_ = compare(ours, theirs, ["dice", *others])
    assert (first["verdict"], first["p_holm"]) == ("A is better", first["p"])


def test_other_cases_or_labels_are_not_compared():
    with pytest.raises(ValueError, match="not scored on the same cases"):
        compare(rows([0.1, 0.2]), rows([0.1]), ["dice"])
    other = rows([0.1])
    other[0]["target_voxels"] = 6
    with pytest.raises(ValueError, match="target of A has 5 voxels, that of B has 6"):
        compare(rows([0.1]), other, ["dice"])
