"""Comparing runs: paired by case, and no claim without evidence."""

import numpy as np
import pytest
from sklearn import metrics

from scripts.compare import differences
from utils import comparison
from utils.comparison import case_dice, resampled_interval, spread


def run(dice: dict[str, float]) -> dict:
    return {"rows": [{"case": case, "class": "tumor", "dice": value} for case, value in dice.items()]}


CASES = [f"case_{number}" for number in range(20)]


def test_dice_of_a_case_is_averaged_over_seeds_and_classes():
    runs = [run(dice)["rows"] for dice in ({"a": 0.2, "b": 0.4}, {"a": 0.4, "b": 0.8})]
    assert case_dice(runs, "tumor") == pytest.approx({"a": 0.3, "b": 0.6})
    assert case_dice(runs, None) == case_dice(runs, "tumor")


def test_a_constant_gain_is_found_and_a_random_one_is_not():
    noise = np.random.default_rng(0).normal(0, 0.1, (2, len(CASES)))
    plain = run(dict(zip(CASES, 0.5 + noise[0], strict=True)))
    better = run(dict(zip(CASES, 0.6 + noise[0] + 0.01 * noise[1], strict=True)))
    same = run(dict(zip(CASES, 0.5 + noise[1] - noise[1].mean() + noise[0].mean(), strict=True)))
    assert differences("new", [better], "old", [plain])[0].endswith("new is better")
    assert "+0.1" in differences("new", [better], "old", [plain])[0]
    assert differences("new", [same], "old", [plain])[0].endswith("no measurable difference")


def test_runs_on_other_cases_are_not_compared():
    with pytest.raises(ValueError, match="not scored on the same test cases"):
        differences("new", [run({"a": 1.0})], "old", [run({"b": 1.0})])


def test_spread_tells_the_standard_deviation_over_seeds():
    assert spread([0.5]) == "0.500"
    assert spread([0.5, 0.7]) == "0.600 ± 0.141"  # sd of two values 0.2 apart: 0.2 / sqrt 2


def answers(seed: int, skill: float, images: int = 400, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    target = np.arange(images) % classes
    logits = generator.normal(size=(images, classes)) + skill * np.eye(classes)[target]
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True), target


@pytest.mark.parametrize(("classes", "multiclass"), [(2, {}), (3, {"multi_class": "ovr"})])
def test_scores_are_those_of_scikit_learn(classes, multiclass):
    probability, target = answers(0, 1.0, classes=classes)
    probability = probability.round(1)  # ties
    probability /= probability.sum(1, keepdims=True)
    predicted = probability.argmax(1)
    assert comparison.accuracy(probability, target) == pytest.approx(metrics.accuracy_score(target, predicted))
    expected = metrics.balanced_accuracy_score(target, predicted)
    assert comparison.balanced_accuracy(probability, target) == pytest.approx(expected)
    score = probability if classes == 3 else probability[:, 1]
    expected = metrics.roc_auc_score(target, score, **multiclass)
    assert comparison.auroc(probability, target) == pytest.approx(expected)


def test_auroc_of_four_images_by_hand():
    # class 1 at .9 and .4, class 0 at .6 and .4: pairs (.9,.6) right, (.9,.4) right, (.4,.6) wrong, (.4,.4) half: 2.5/4
    positive = np.array([0.9, 0.4, 0.6, 0.4])
    area = comparison.auroc(np.stack([1 - positive, positive], 1), np.array([1, 1, 0, 0]))
    assert area == pytest.approx(0.625)


def test_a_better_classifier_is_told_from_noise():
    target = answers(0, 1.0)[1]
    plain = [answers(seed, 1.0)[0] for seed in (1, 2)]
    again = [answers(seed, 1.0)[0] for seed in (3, 4)]
    better = [answers(seed, 2.0)[0] for seed in (5, 6)]
    mean, low, high = resampled_interval(comparison.accuracy, better, plain, target, resamples=200)
    assert 0 < low < mean < high
    _, low, high = resampled_interval(comparison.accuracy, again, plain, target, resamples=200)
    assert low < 0 < high


def test_classifiers_are_compared_by_image():
    def run(seed: int, skill: float) -> dict:
        probability, target = answers(seed, skill)
        rows = [
            {"case": f"{number:03d}", "target": int(label), "probability": list(values)}
            for number, (values, label) in enumerate(zip(probability, target, strict=True))
        ]
        return {"rows": rows[::-1] if seed % 2 else rows}

    lines = differences("new", [run(1, 2.0)], "old", [run(2, 1.0)])
    assert [line.split(" ")[4] for line in lines] == ["accuracy,", "balanced", "AUROC,"]
    assert all(line.endswith("new is better") for line in lines)
