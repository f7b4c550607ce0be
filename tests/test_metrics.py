"""Scores of masks against values worked by hand."""

import json
import math

import pytest
import torch

from utils.evaluation.metrics import METRICS, PublishedProtocol, VolumeDice

MASKS = ["published", "volume_dice"]


def logits_of(prediction, classes=2):
    """Logits (B, K, H, W) whose argmax is `prediction` (B, H, W)."""
    prediction = torch.as_tensor(prediction)
    return 10.0 * torch.nn.functional.one_hot(prediction, classes).movedim(-1, 1).float()


def target_of(target):
    return torch.as_tensor(target)[:, None]


def slices(*areas, size=4):
    """Slices (B, size, size) with the first `areas[b]` pixels 1."""
    result = torch.zeros(len(areas), size * size, dtype=torch.int64)
    for row, area in zip(result, areas, strict=True):
        row[:area] = 1
    return result.reshape(-1, size, size)


def scored(metric, prediction, target, case="a", classes=2):
    metric.update(logits_of(prediction, classes), target_of(target), case)
    return metric


def test_dice_is_of_the_case_and_not_the_mean_of_its_slices():
    # slice 1: P 4, G 4, I 4 -> 1; slice 2: P 0, G 1 -> 0; slice mean 1/2. Case: 2*4 / (4 + 5) = 8/9.
    metric = scored(VolumeDice(["tumor"]), slices(4, 0), slices(4, 1))
    assert metric.compute()["dice/tumor"] == pytest.approx(8 / 9)
    assert metric.compute()["dice"] == pytest.approx(8 / 9)


def test_a_case_may_come_in_several_batches_and_mixed_with_others():
    metric = VolumeDice(["tumor"])
    scored(metric, slices(4, 2), slices(4, 2), ["a", "b"])
    scored(metric, slices(0, 2), slices(1, 2), ("a", "b"))
    assert {row["case"]: row["dice"] for row in metric.per_case()} == {"a": pytest.approx(8 / 9), "b": 1.0}
    # mean over cases, not over voxels: (8/9 + 1) / 2
    assert metric.compute()["dice"] == pytest.approx(17 / 18)


@pytest.mark.parametrize(
    ("predicted", "wanted", "dice", "voe"),
    [(0, 0, 1.0, 0.0), (3, 0, 0.0, 1.0), (0, 3, 0.0, 1.0), (3, 3, 1.0, 0.0), (2, 6, 0.5, 2 / 3)],
)
def test_empty_masks_follow_the_kits_rule(predicted, wanted, dice, voe):
    # last: I 2, P 2, G 6: Dice 4/8; IoU 2/6
    row = scored(VolumeDice(["tumor"]), slices(predicted), slices(wanted)).per_case()[0]
    assert (row["dice"], row["voe"]) == (pytest.approx(dice), pytest.approx(voe))


def test_cases_and_slices_without_a_tumor_are_counted_and_their_false_positives_told():
    metric = VolumeDice(["tumor"])
    scored(metric, slices(4, 3, 0), slices(4, 0, 0), "with")
    scored(metric, slices(5, 0), slices(0, 0), "without")
    scored(metric, slices(0, 0), slices(0, 0), "clean")
    scores = metric.compute()
    assert scores["cases"] == 3
    assert scores["cases_without/tumor"] == 2
    assert scores["false_positive_voxels/tumor"] == pytest.approx(5 / 2)  # 5 and 0 voxels
    # slices without tumor: 2 + 2 + 2; predicted in one of `with` and one of `without`
    assert scores["false_positive_slices/tumor"] == pytest.approx(2 / 6)
    # with: 2*4 / (7 + 4); without: 0; clean: 1
    assert scores["dice/tumor"] == pytest.approx((8 / 11 + 0 + 1) / 3)


def test_voe_is_one_minus_iou_and_rvd_has_no_sign():
    metric = VolumeDice(["tumor"])
    scored(metric, slices(2), slices(4), "small")  # I 2, P 2, G 4: IoU 1/2, RVD -1/2
    scored(metric, slices(6), slices(4), "large")  # I 4, P 6, G 4: IoU 2/3, RVD +1/2
    scored(metric, slices(6), slices(0), "without")  # no RVD: not in its mean
    scores = metric.compute()
    assert scores["abs_rvd/tumor"] == pytest.approx(1 / 2)
    assert scores["voe/tumor"] == pytest.approx((1 / 2 + 1 / 3 + 1) / 3)
    assert metric.per_case()[2]["abs_rvd"] is None


def test_classes_are_scored_apart_and_averaged_last():
    # class 1: I 1, P 2, G 1 -> 2/3; class 2: I 1, P 1, G 2 -> 2/3; class 3: both empty -> 1
    metric = scored(VolumeDice(["a", "b", "c"]), [[[1, 1, 2, 0]]], [[[1, 2, 2, 0]]], classes=4)
    scores = metric.compute()
    assert [scores[f"dice/{name}"] for name in "abc"] == [pytest.approx(2 / 3), pytest.approx(2 / 3), 1.0]
    assert scores["dice"] == pytest.approx(7 / 9)


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_prediction_is_the_argmax_and_the_lower_class_on_a_tie(classes, memory_format):
    torch.manual_seed(0)
    logits = torch.randint(-2, 3, (4, classes, 9, 9)).float().contiguous(memory_format=memory_format)
    prediction = logits.numpy().argmax(1)  # numpy promises the first of equals
    names = [str(number) for number in range(1, classes)]
    metric = VolumeDice(names)
    metric.update(logits, torch.from_numpy(prediction)[:, None], "a")
    assert metric.compute()["dice"] == 1.0
    assert [row["target_voxels"] for row in metric.per_case()] == [(prediction == int(name)).sum() for name in names]


def test_scores_that_nothing_is_known_of_are_left_out():
    full = scored(VolumeDice(["tumor"]), slices(4), slices(4)).compute()
    assert not {"false_positive_voxels/tumor", "false_positive_slices/tumor"} & set(full)
    empty = scored(VolumeDice(["tumor"]), slices(0), slices(0)).compute()
    assert "abs_rvd/tumor" not in empty
    assert all(math.isfinite(value) for value in [*full.values(), *empty.values()])


def probabilities(*values):
    """One slice (1, 2, 1, W) of logits with these foreground probabilities."""
    foreground = torch.tensor(values)
    return torch.stack([(1 - foreground).log(), foreground.log()])[None, :, None]


def test_the_published_protocol_scores_tumor_slices_only_at_0_4():
    metric = PublishedProtocol(["tumor"])
    # tumor slice: predicted (> 0.4) where 0.45, 0.9, 0.6; target on the first two: I 2, P 3, G 2
    metric.update(probabilities(0.45, 0.9, 0.6, 0.1), torch.tensor([[[[1, 1, 0, 0]]]]), "a")
    # tumor slice: P 0, G 3 (0.39 is not enough)
    metric.update(probabilities(0.39, 0.3, 0.2, 0.1), torch.tensor([[[[1, 1, 1, 0]]]]), "a")
    # four false positives on a slice without tumor cost nothing, and this case is not there
    metric.update(probabilities(0.9, 0.9, 0.9, 0.9), torch.zeros(1, 1, 1, 4, dtype=torch.int64), ["a"])
    metric.update(probabilities(0.9, 0.9, 0.9, 0.9), torch.zeros(1, 1, 1, 4, dtype=torch.int64), ["b"])
    # case a: I 2, P 3, G 5. Dice (4 + 1) / (8 + 1); "VOE" 2 (3 - 2) / 8; RVD 3/5 - 1
    scores = metric.compute()
    assert scores == {
        "published/dice": pytest.approx(5 / 9),
        "published/dice/tumor": pytest.approx(5 / 9),
        "published/voe/tumor": pytest.approx(1 / 4),
        "published/rvd/tumor": pytest.approx(-2 / 5),
        "published/cases/tumor": 1.0,
    }


def test_the_published_rvd_lets_errors_cancel():
    metric = PublishedProtocol(["tumor"])
    scored(metric, slices(2), slices(4), "small")
    scored(metric, slices(6), slices(4), "large")
    assert metric.compute()["published/rvd/tumor"] == pytest.approx(0.0)


def test_the_published_protocol_takes_each_class_on_its_own_slices():
    metric = PublishedProtocol(["kidney", "tumor"])
    # slice 1 holds both; slice 2 kidney only: its false tumor pixel is not counted
    scored(metric, [[[1, 2, 0]], [[1, 2, 0]]], [[[1, 2, 0]], [[1, 1, 0]]], classes=3)
    # kidney: I 2, P 2, G 3 -> 5/6; tumor: I 1, P 1, G 1 -> 3/3
    scores = metric.compute()
    assert scores["published/dice/kidney"] == pytest.approx(5 / 6)
    assert scores["published/dice/tumor"] == pytest.approx(1.0)


def test_without_any_tumor_the_published_protocol_has_no_score():
    assert scored(PublishedProtocol(["tumor"]), slices(3), slices(0)).compute() == {"published/cases/tumor": 0.0}


def test_tags_of_the_two_metrics_never_meet():
    tags = [
        set(scored(metric(["tumor"]), slices(3), slices(3)).compute()) for metric in (VolumeDice, PublishedProtocol)
    ]
    assert not tags[0] & tags[1]
    assert all(tag.startswith("published/") for tag in tags[1])


@pytest.mark.parametrize("name", MASKS)
def test_merging_two_halves_equals_the_whole(name):
    torch.manual_seed(0)
    logits, target = torch.randn(8, 3, 6, 6), torch.randint(3, (8, 1, 6, 6))
    target[2] = 0
    cases = ["a", "a", "b", "b", "a", "c", "c", "b"]
    whole, first, second = (METRICS[name](["kidney", "tumor"]) for _ in range(3))
    whole.update(logits, target, cases)
    first.update(logits[:4], target[:4], cases[:4])
    second.update(logits[4:], target[4:], cases[4:])
    first.merge(json.loads(json.dumps(second.state())))  # as it comes from another process
    assert first.compute() == whole.compute()
    assert first.per_case() == whole.per_case()


@pytest.mark.parametrize("name", MASKS)
def test_every_metric_scores_a_perfect_prediction_best(name):
    metric = scored(METRICS[name](["tumor"]), slices(4, 0), slices(4, 0))
    assert metric.compute()[metric.selects] == 1.0
    assert metric.empty_mask_rule
    assert set(metric.per_case()[0]) >= {"case", "class", metric.case_score}
    assert metric.check_cases > 0
    assert all(name in METRICS and name.startswith("published") for name in metric.beside)
    json.dumps(metric.per_case())


@pytest.mark.parametrize("name", MASKS)
def test_shapes_and_cases_that_do_not_fit_are_refused(name):
    metric = METRICS[name](["tumor"])
    logits, target = logits_of(slices(1, 2)), target_of(slices(1, 2))
    with pytest.raises(ValueError, match="no slice was scored"):
        metric.compute()
    with pytest.raises(ValueError, match="do not fit"):
        METRICS[name](["kidney", "tumor"]).update(logits, target, "a")
    with pytest.raises(ValueError, match="do not fit"):
        metric.update(logits, target[:, 0], "a")
    with pytest.raises(ValueError, match="3 cases for 2 slices"):
        metric.update(logits, target, ["a", "b", "c"])
    with pytest.raises(ValueError, match="class_names"):
        METRICS[name]("tumor")
    with pytest.raises(ValueError, match="cannot merge"):
        metric.merge(METRICS[name](["kidney"]).state())


def test_counts_do_not_overflow_in_half_precision():
    logits = logits_of(torch.ones(1, 300, 300, dtype=torch.int64)).bfloat16()
    metric = VolumeDice(["tumor"])
    metric.update(logits, torch.ones(1, 1, 300, 300, dtype=torch.int64), "a")
    assert metric.per_case()[0]["target_voxels"] == 90_000
    assert metric.compute()["dice"] == 1.0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", MASKS)
def test_counts_stay_on_the_device_and_agree_with_the_cpu(name):
    torch.manual_seed(0)
    logits, target = torch.randn(4, 3, 32, 32), torch.randint(3, (4, 1, 32, 32))
    here, there = (METRICS[name](["kidney", "tumor"]) for _ in range(2))
    here.update(logits, target, ["a", "a", "b", "b"])
    there.update(logits.cuda(), target.cuda(), ["a", "a", "b", "b"])
    assert there.compute() == here.compute()
