"""Scores of images with one class each, against values worked by hand and scikit-learn's."""

import json
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn import metrics

from utils.evaluation.metrics import Classification
from utils.evaluation.metrics.calibration import calibration_error
from utils.evaluation.metrics.classification import confusion, scores
from utils.evaluation.metrics.partial_auc import partial_auc

ABC = ["a", "b", "c"]


def classified(metric: Classification, probability, target, cases=None) -> Classification:
    """The metric, fed logits whose softmax is `probability`."""
    cases = [f"{number:03d}" for number in range(len(target))] if cases is None else cases
    metric.update(torch.tensor(probability).log(), torch.tensor(target), cases)
    return metric


def random_answers(classes: int, images: int = 300, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities with ties, somewhat better than chance."""
    generator = np.random.default_rng(seed)
    target = generator.integers(classes, size=images)
    logits = (generator.normal(size=(images, classes)) + np.eye(classes)[target]).round(1)
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True), target


def certain(prediction, classes: int) -> np.ndarray:
    return np.where(np.eye(classes)[prediction] > 0, 0.9, 0.1 / (classes - 1))


def test_accuracy_recall_precision_and_f1_by_hand():
    # targets a a a a, b b, c; answers a a a b, b c, c
    found = scores(certain([0, 0, 0, 1, 1, 2, 2], 3), np.array([0, 0, 0, 0, 1, 1, 2]), ABC)
    assert found["accuracy"] == pytest.approx(5 / 7)
    assert [found[f"recall/{name}"] for name in ABC] == pytest.approx([3 / 4, 1 / 2, 1])
    assert [found[f"precision/{name}"] for name in ABC] == pytest.approx([1, 1 / 2, 1 / 2])
    # F1 = 2 right / (wanted + answered): 6 / (4 + 3), 2 / (2 + 2), 2 / (1 + 2)
    assert [found[f"f1/{name}"] for name in ABC] == pytest.approx([6 / 7, 1 / 2, 2 / 3])
    assert found["balanced_accuracy"] == pytest.approx((3 / 4 + 1 / 2 + 1) / 3)
    assert found["macro_f1"] == pytest.approx((6 / 7 + 1 / 2 + 2 / 3) / 3)
    assert found["cases"] == 7


def test_the_confusion_matrix_has_a_row_for_each_target():
    table = confusion(np.array([0, 0, 0, 0, 1, 1, 2]), np.array([0, 0, 0, 1, 1, 2, 2]), 3)
    assert table.tolist() == [[3, 1, 0], [0, 1, 1], [0, 0, 1]]
    assert confusion(np.array([0]), np.array([0]), 3).shape == (3, 3)


def test_areas_of_four_images_by_hand():
    # class 1 at .9 and .4, class 0 at .6 and .4. Pairs (.9,.6) and (.9,.4) right, (.4,.6) wrong, (.4,.4) half: 2.5 / 4
    positive = np.array([0.9, 0.4, 0.6, 0.4])
    found = scores(np.stack([1 - positive, positive], 1), np.array([1, 1, 0, 0]), ["no", "yes"])
    assert found["auroc"] == pytest.approx(2.5 / 4)
    # thresholds .9, .6, .4: recall 1/2, 1/2, 1 at precision 1, 1/2, 2/4: 1/2 * 1 + 0 + 1/2 * 1/2
    assert found["average_precision"] == pytest.approx(3 / 4)
    assert found["auroc/yes"] == pytest.approx(2.5 / 4)


def test_the_area_of_several_classes_is_the_mean_of_one_against_the_rest():
    probability = np.array([[0.6, 0.3, 0.1], [0.5, 0.3, 0.2], [0.55, 0.15, 0.3], [0.1, 0.2, 0.7]])
    found = scores(probability, np.array([0, 1, 1, 2]), ABC)
    # a: .6 above .5, .55, .1: 1. b: .3, .15 against .3, .2: half + right, wrong, wrong: 1.5 / 4. c: .7 above all: 1
    assert [found[f"auroc/{name}"] for name in ABC] == pytest.approx([1, 1.5 / 4, 1])
    assert found["auroc"] == pytest.approx((1 + 1.5 / 4 + 1) / 3)
    assert "partial_auc" not in found


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_scores_are_those_of_scikit_learn(classes):
    probability, target = random_answers(classes)
    found = scores(probability, target, [str(number) for number in range(classes)])
    answer, one_hot = probability.argmax(1), np.eye(classes)[target]
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(target, answer))
    assert found["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(target, answer))
    assert found["macro_f1"] == pytest.approx(metrics.f1_score(target, answer, average="macro"))
    columns = slice(1, None) if classes == 2 else slice(None)
    assert found["auroc"] == pytest.approx(metrics.roc_auc_score(one_hot[:, columns], probability[:, columns]))
    expected = metrics.average_precision_score(one_hot[:, columns], probability[:, columns])
    assert found["average_precision"] == pytest.approx(expected)
    precision = metrics.precision_score(target, answer, average=None)
    assert [found[f"precision/{number}"] for number in range(classes)] == pytest.approx(precision)


def test_calibration_error_by_hand():
    # 15 bins. Top .6 (bin 9, closed on the right), .65 and .62 (bin 10), .9 (bin 14); right, right, wrong, wrong
    top = np.array([0.6, 0.65, 0.62, 0.9])
    probability, target = np.stack([top, 1 - top], 1), np.array([0, 0, 1, 1])
    # 1/4 |1 - .6| + 2/4 |1/2 - .635| + 1/4 |0 - .9| = .1 + .0675 + .225
    assert calibration_error(probability, target) == pytest.approx(0.3925)
    # one bin: |2/4 - .6925|
    assert calibration_error(probability, target, bins=1) == pytest.approx(0.1925)


def test_a_certain_answer_has_a_bin():
    assert calibration_error(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0, 0])) == pytest.approx(1 / 2)


def test_answers_right_as_often_as_they_say_are_calibrated():
    generator = np.random.default_rng(0)
    top = generator.uniform(0.5, 1, 20_000)
    target = (generator.uniform(size=20_000) > top).astype(int)
    assert calibration_error(np.stack([top, 1 - top], 1), target) < 0.02


def test_partial_auc_by_hand():
    # ranked: 1 1 1 1 0 1 0 0 0 0; five of each class. The ROC curve rises to TPR .8 at FPR 0, goes right to FPR .2,
    # rises to 1. Above TPR .8: nothing up to FPR .2, then .2 high over .8 of width: .16 of at most .2
    target = np.array([1, 1, 1, 1, 0, 1, 0, 0, 0, 0])
    score = np.linspace(0.95, 0.05, 10)
    assert partial_auc(score, target) == pytest.approx(0.16)
    # without the flip it would be the area at FPR <= .2: .8 high and .2 wide: .16 too. Move the last 1 to the end:
    # flat at TPR .8 up to FPR 1, so that nothing is left above; at FPR <= .2 it is still .16.
    last = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 1])
    assert partial_auc(score, last) == pytest.approx(0)
    assert partial_auc(score, np.sort(target)[::-1]) == pytest.approx(0.2)
    # tie of everything: the diagonal, a triangle of .2 by .2
    assert partial_auc(np.full(10, 0.5), target) == pytest.approx(0.02)


def area_above(score: np.ndarray, target: np.ndarray, min_tpr: float) -> float:
    """Integral over FPR of max(TPR - min_tpr, 0), by trapezoids over the corners of the curve."""
    corners = [(0.0, 0.0)]
    for threshold in sorted(set(score), reverse=True):
        answered = score >= threshold
        corners.append((answered[target == 0].mean(), answered[target == 1].mean()))
    area = 0.0
    for (left, low), (right, high) in pairwise(corners):
        if high <= min_tpr:
            continue
        if low < min_tpr:
            left, low = left + (right - left) * (min_tpr - low) / (high - low), min_tpr
        area += (right - left) * ((low + high) / 2 - min_tpr)
    return area


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("min_tpr", [0.8, 0.5])
def test_partial_auc_is_the_area_above_the_line(seed, min_tpr):
    probability, target = random_answers(2, images=60, seed=seed)
    score = probability[:, 1].round(1)
    assert partial_auc(score, target, min_tpr) == pytest.approx(area_above(score, target, min_tpr))


def test_a_class_without_a_case_is_left_out_of_the_means():
    # targets a a b, answers a c b: c is answered but never asked for
    found = scores(certain([0, 2, 1], 3), np.array([0, 0, 1]), ABC)
    assert found["balanced_accuracy"] == pytest.approx((1 / 2 + 1) / 2)
    assert found["macro_f1"] == pytest.approx((2 / 3 + 1) / 2)
    assert not {key for key in found if key.endswith("/c")}
    assert found["auroc"] == pytest.approx((found["auroc/a"] + found["auroc/b"]) / 2)


@pytest.mark.parametrize("classes", [2, 3])
def test_what_nothing_is_known_of_is_left_out(classes):
    names = ABC[:classes]
    found = scores(certain([0, 1, 0], classes), np.array([0, 0, 0]), names)  # b is never right, no area
    assert not {"auroc", "average_precision", "partial_auc", "auroc/a"} & set(found)
    found = scores(certain([0, 0, 0], classes), np.array([0, 1, 1]), names)  # b is never answered
    assert "precision/b" not in found
    assert found["f1/b"] == 0
    assert all(math.isfinite(value) for value in found.values())


@pytest.mark.parametrize("select", ["balanced_accuracy", "accuracy", "auroc", "macro_f1", "average_precision"])
@pytest.mark.parametrize("classes", [2, 3])
def test_every_score_that_selects_is_computed_and_best_for_perfect_answers(select, classes):
    target = list(range(classes)) * 2
    metric = classified(Classification(ABC[:classes], select), certain(target, classes), target)
    assert metric.compute()[metric.selects] == pytest.approx(1)


def test_partial_auc_selects_between_two_classes_only():
    metric = classified(Classification(["no", "yes"], "partial_auc"), certain([0, 1], 2), [0, 1])
    assert metric.compute()[metric.selects] == pytest.approx(0.2)
    with pytest.raises(ValueError, match=r"two classes, not for the 3 classes a, b, c; select auroc"):
        Classification(ABC, "partial_auc")


def test_a_row_tells_target_prediction_and_probabilities():
    metric = classified(Classification(ABC), [[0.2, 0.5, 0.3], [0.7, 0.2, 0.1]], [0, 0], ["y", "x"])
    first, second = json.loads(json.dumps(metric.per_case()))
    assert first == {
        "case": "x",
        "target": 0,
        "prediction": 0,
        "probability": pytest.approx([0.7, 0.2, 0.1]),
        "target_probability": pytest.approx(0.7),
    }
    assert (second["case"], second["prediction"]) == ("y", 1)
    assert second[metric.case_score] == pytest.approx(0.2)
    assert metric.empty_mask_rule
    assert metric.check_cases == 200
    assert metric.beside == ()


def test_near_certain_answers_keep_their_order():
    # in float32 the softmax of both is 1, and the area 1/2
    logits = torch.tensor([[0.0, 25.0], [0.0, 20.0]])
    metric = Classification(["no", "yes"])
    metric.update(logits, torch.tensor([1, 0]), ["x", "y"])
    assert metric.compute()["auroc"] == 1


def test_merging_two_halves_equals_the_whole():
    torch.manual_seed(0)
    logits, target = torch.randn(40, 3), torch.randint(3, (40,))
    cases = [f"{number * 7 % 40}" for number in range(40)]
    whole, first, second, third = (Classification(ABC) for _ in range(4))
    for start in range(0, 40, 16):
        whole.update(logits[start : start + 16], target[start : start + 16], cases[start : start + 16])
    first.update(logits[:13], target[:13], cases[:13])
    second.update(logits[13:], target[13:], cases[13:])
    for other in (second, third):  # a process may have had no case
        first.merge(json.loads(json.dumps(other.state())))
    assert first.compute() == whole.compute()
    assert first.per_case() == whole.per_case()


def test_half_precision_logits_are_scored():
    metric = Classification(ABC)
    metric.update(torch.randn(4, 3).bfloat16(), torch.tensor([0, 1, 2, 0]), list("wxyz"))
    assert metric.compute()["cases"] == 4


def test_what_does_not_fit_is_refused():
    logits, target = torch.randn(2, 3), torch.tensor([0, 1])
    metric = Classification(ABC)
    with pytest.raises(ValueError, match="no image was scored"):
        metric.compute()
    with pytest.raises(ValueError, match=r"\(2, 3\) and target \(2,\) do not fit.*\(B, 2\)"):
        Classification(["a", "b"]).update(logits, target, ["x", "y"])
    with pytest.raises(ValueError, match="do not fit"):
        metric.update(logits, target[:, None], ["x", "y"])
    with pytest.raises(ValueError, match="do not fit"):
        metric.update(torch.randn(2, 3, 8, 8), torch.zeros(2, 1, 8, 8), ["x", "y"])
    with pytest.raises(ValueError, match="a name for each image"):
        metric.update(logits, target, ["x"])
    with pytest.raises(ValueError, match="two or more classes"):
        Classification(["tumor"])
    with pytest.raises(ValueError, match="cannot merge"):
        metric.merge(Classification(["a", "b"]).state())


def test_a_case_scored_twice_is_refused():
    metric = classified(Classification(ABC), certain([0], 3), [0], ["x"])
    with pytest.raises(ValueError, match="case x was scored twice"):
        metric.merge(metric.state())
    classified(metric, certain([0], 3), [0], ["x"])
    with pytest.raises(ValueError, match="case x was scored twice"):
        metric.compute()


def test_logits_that_are_not_finite_are_refused_with_their_case():
    metric = Classification(ABC)
    metric.update(torch.tensor([[0.0, 0, 0], [0, math.nan, 0]]), torch.tensor([0, 1]), ["good", "bad"])
    with pytest.raises(ValueError, match="logits of bad are not finite"):
        metric.compute()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_logits_of_the_device_score_as_on_the_cpu():
    torch.manual_seed(0)
    logits, target, cases = torch.randn(40, 3), torch.randint(3, (40,)), [str(number) for number in range(40)]
    here, there = Classification(ABC), Classification(ABC)
    here.update(logits, target, cases)
    there.update(logits.cuda(), target.cuda(), cases)
    assert there.compute() == here.compute()
