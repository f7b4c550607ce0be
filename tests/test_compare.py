"""Comparing runs: paired by case, and no claim without evidence."""

import numpy as np
import pytest

from scripts.compare import case_dice, difference, spread


def run(dice: dict[str, float]) -> dict:
    return {"rows": [{"case": case, "class": "tumor", "dice": value} for case, value in dice.items()]}


CASES = [f"case_{number}" for number in range(20)]


def test_dice_of_a_case_is_averaged_over_seeds_and_classes():
    runs = [run({"a": 0.2, "b": 0.4}), run({"a": 0.4, "b": 0.8})]
    assert case_dice(runs, "tumor") == pytest.approx({"a": 0.3, "b": 0.6})
    assert case_dice(runs, None) == case_dice(runs, "tumor")


def test_a_constant_gain_is_found_and_a_random_one_is_not():
    noise = np.random.default_rng(0).normal(0, 0.1, (2, len(CASES)))
    plain = run(dict(zip(CASES, 0.5 + noise[0], strict=True)))
    better = run(dict(zip(CASES, 0.6 + noise[0] + 0.01 * noise[1], strict=True)))
    same = run(dict(zip(CASES, 0.5 + noise[1] - noise[1].mean() + noise[0].mean(), strict=True)))
    assert difference("new", [better], "old", [plain]).endswith("new is better")
    assert "+0.1" in difference("new", [better], "old", [plain])
    assert difference("new", [same], "old", [plain]).endswith("no measurable difference")


def test_runs_on_other_cases_are_not_compared():
    with pytest.raises(ValueError, match="not scored on the same test cases"):
        difference("new", [run({"a": 1.0})], "old", [run({"b": 1.0})])


def test_spread_tells_the_standard_deviation_over_seeds():
    assert spread([0.5]) == "0.500"
    assert spread([0.5, 0.7]) == "0.600 ± 0.141"  # sd of two values 0.2 apart: 0.2 / sqrt 2
