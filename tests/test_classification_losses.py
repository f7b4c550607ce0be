"""Losses of whole images: worked values of weighted cross-entropy, and of what distils logits, vectors and tokens."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight

from utils.distillation.losses import DISTILLATION_LOSSES, TASK_LOSSES
from utils.recipe.registry import build

VECTORS = ["decoupled", "hard_target", "hint", "soft_target"]  # what takes (B, K)


def vectors(seed: int, classes: int = 5, batch: int = 6) -> torch.Tensor:
    return torch.randn(batch, classes, generator=torch.Generator().manual_seed(seed))


TARGET = torch.tensor([0, 1, 2, 3, 4, 0])
# softmax (1/2, 1/2) with target 0, and (1/4, 3/4) with target 1: -log p is ln 2 and ln 4/3
PAIR, PAIR_TARGET = torch.tensor([[0.0, 0.0], [0.0, math.log(3)]]), torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, (math.log(2) + math.log(4 / 3)) / 2),
        # divided by the sum of the weights, not by 2
        ({"class_weights": [1.0, 3.0]}, (math.log(2) + 3 * math.log(4 / 3)) / 4),
        # 8 / (2 * 6) = 2/3 and 8 / (2 * 2) = 2: as 1 to 3
        ({"class_weights": "balanced", "class_counts": [6, 2]}, (math.log(2) + 3 * math.log(4 / 3)) / 4),
        # targets (.9, .1) and (.1, .9): ln 2, and .1 ln 4 + .9 ln 4/3
        ({"label_smoothing": 0.2}, (math.log(2) + 0.1 * math.log(4) + 0.9 * math.log(4 / 3)) / 2),
        ({"class_counts": [6, 2]}, (math.log(2) + math.log(4 / 3)) / 2),  # counts alone weigh nothing
    ],
)
def test_cross_entropy_of_two_images_by_hand(arguments, expected):
    loss = TASK_LOSSES["cross_entropy"](**arguments)
    assert loss(PAIR, PAIR_TARGET).item() == pytest.approx(expected, abs=1e-6)
    # the same two as the pixels of one image
    pixels = loss(PAIR.T.reshape(1, 2, 1, 2), PAIR_TARGET.view(1, 1, 1, 2))
    assert pixels.item() == pytest.approx(expected, abs=1e-6)


def test_balanced_weights_are_those_of_scikit_learn():
    labels = [0] * 5 + [1] * 2 + [2] * 9
    loss = TASK_LOSSES["cross_entropy"](class_weights="balanced", class_counts=[5, 2, 9])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    assert loss.class_weights.tolist() == pytest.approx(expected.tolist())


def test_class_weights_follow_the_device_and_stay_out_of_checkpoints():
    loss = TASK_LOSSES["cross_entropy"](class_weights=[1.0, 3.0])
    assert not loss.state_dict()
    assert not list(loss.parameters())
    assert loss.to("meta").class_weights.device.type == "meta"


@pytest.mark.parametrize(("weights", "expected"), [("balanced", [2 / 3, 2.0]), ([0.0625, 1.0], [0.0625, 1.0])])
def test_a_recipe_gives_class_weights_and_the_data_its_counts(weights, expected):
    section = {"name": "cross_entropy", "class_weights": weights}
    loss = build(TASK_LOSSES, section, "task_loss", class_counts=[30, 10])
    assert loss.class_weights.tolist() == pytest.approx(expected)
    assert build(TASK_LOSSES, {"name": "cross_entropy"}, "task_loss", class_counts=None).class_weights is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"class_weights": "balanced", "class_counts": [4, 0]}, r"no training image.*\[4, 0\].*numbers"),
        ({"class_weights": "balanced"}, "does not count its classes"),
        ({"class_weights": [1.0, 0.0]}, r"\[1.0, 0.0\] must all be positive"),
        ({"label_smoothing": 1.0}, "label_smoothing 1.0"),
    ],
)
def test_weights_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        TASK_LOSSES["cross_entropy"](**arguments)


def test_targets_of_another_kind_are_refused():
    loss = TASK_LOSSES["cross_entropy"]()
    with pytest.raises(ValueError, match=r"\(2, 2\) and target \(2, 1, 4, 4\) do not fit"):
        loss(PAIR, torch.zeros(2, 1, 4, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"\(2, 2, 4, 4\) and target \(2,\) do not fit"):
        loss(torch.zeros(2, 2, 4, 4), PAIR_TARGET)
    with pytest.raises(ValueError, match="3 values for 2 classes"):
        TASK_LOSSES["cross_entropy"](class_weights=[1.0, 1.0, 1.0])(PAIR, PAIR_TARGET)


@pytest.mark.parametrize("name", VECTORS)
def test_repeating_the_batch_changes_nothing(name):
    loss = DISTILLATION_LOSSES[name]()
    expected = loss(vectors(0), vectors(1), TARGET)
    assert expected > 0
    torch.testing.assert_close(loss(vectors(0).tile(3, 1), vectors(1).tile(3, 1), TARGET.tile(3)), expected)


@pytest.mark.parametrize("name", VECTORS)
def test_an_image_of_one_pixel_costs_what_its_vector_costs(name):
    loss = DISTILLATION_LOSSES[name]()
    expected = loss(vectors(0), vectors(1), TARGET)
    pixels = loss(vectors(0)[..., None, None], vectors(1)[..., None, None], TARGET.view(-1, 1, 1, 1))
    torch.testing.assert_close(pixels, expected)


@pytest.mark.parametrize("name", VECTORS)
def test_half_precision_is_computed_in_fp32_and_the_gradient_reaches_the_student_only(name):
    loss = DISTILLATION_LOSSES[name]()
    student, teacher = vectors(0).bfloat16().requires_grad_(), vectors(1).bfloat16().requires_grad_()
    value = loss(student, teacher, TARGET)
    assert value.dtype == torch.float32
    assert value.item() == loss(student.float(), teacher.float(), TARGET).item()
    value.backward()
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None


# Teacher (1/2, 1/4, 1/4), student (1/4, 1/4, 1/2), target class 0:
# TCKD, of (target, rest): teacher (1/2, 1/2), student (1/4, 3/4): 1/2 ln 2 + 1/2 ln 2/3 = 1/2 ln 4/3
# NCKD, among the rest: teacher (1/2, 1/2), student (1/3, 2/3): 1/2 ln 3/2 + 1/2 ln 3/4 = 1/2 ln 9/8
TCKD, NCKD = math.log(4 / 3) / 2, math.log(9 / 8) / 2


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 0.0), (0.0, 1.0), (1.0, 8.0)])
def test_decoupled_by_hand(alpha, beta, temperature):
    teacher = temperature * torch.tensor([[1 / 2, 1 / 4, 1 / 4]]).log()
    student = temperature * torch.tensor([[1 / 4, 1 / 4, 1 / 2]]).log()
    loss = DISTILLATION_LOSSES["decoupled"](alpha, beta, temperature)
    expected = temperature**2 * (alpha * TCKD + beta * NCKD)
    assert loss(student, teacher, torch.tensor([0])).item() == pytest.approx(expected, abs=1e-6)


def test_soft_targets_are_tckd_and_a_share_of_nckd():
    # KL = TCKD + (1 - the teacher's p of the target) NCKD, image by image
    soft = DISTILLATION_LOSSES["soft_target"](temperature=2.0)
    for row, number in enumerate(TARGET):
        student, teacher, target = vectors(0)[row : row + 1], vectors(1)[row : row + 1], number[None]
        hushed = 1 - (teacher / 2).softmax(1)[0, number].item()
        loss = DISTILLATION_LOSSES["decoupled"](alpha=1.0, beta=hushed, temperature=2.0)
        torch.testing.assert_close(loss(student, teacher, target), soft(student, teacher))


def test_decoupled_of_a_map_is_the_mean_over_its_pixels():
    student, teacher = vectors(0, batch=12), vectors(1, batch=12)
    target = torch.arange(12) % 5
    loss = DISTILLATION_LOSSES["decoupled"]()

    def dense(values):  # (12, K) to (2, K, 2, 3)
        return values.view(2, 2, 3, -1).movedim(-1, 1)

    found = loss(dense(student), dense(teacher), target.view(2, 1, 2, 3))
    torch.testing.assert_close(found, loss(student, teacher, target))
    student, teacher = dense(student).repeat_interleave(2, 2), dense(teacher)
    assert loss(student, teacher, target.view(2, 1, 2, 3).repeat_interleave(4, 3)) > 0


def test_a_sure_teacher_gives_finite_decoupled_gradients():
    student = torch.tensor([[300.0, -300.0, 0.0]], requires_grad=True)
    for target in range(3):
        loss = DISTILLATION_LOSSES["decoupled"](temperature=1.0)
        value = loss(student, torch.tensor([[-500.0, 500.0, 0.0]]), torch.tensor([target]))
        (gradient,) = torch.autograd.grad(value, student)
        assert torch.isfinite(value)
        assert torch.isfinite(gradient).all()


def test_decoupled_refuses_two_classes_and_says_why():
    loss = DISTILLATION_LOSSES["decoupled"]()
    with pytest.raises(ValueError, match=r"three classes: of two.*NCKD always 0; use soft_target"):
        loss(PAIR, PAIR, PAIR_TARGET)
    with pytest.raises(ValueError, match="5 and 3 classes"):
        loss(vectors(0), vectors(1, 3), TARGET)
    with pytest.raises(ValueError, match="do not fit"):
        loss(vectors(0), vectors(1), TARGET.view(-1, 1, 1, 1))


def test_hard_target_by_hand():
    # the teacher answers 1 and 0: -ln 3/4 and -ln 1/4 of the student's (1/4, 3/4), whatever the target
    student, teacher = torch.tensor([[0.0, math.log(3)]]).tile(2, 1), torch.tensor([[0.1, 0.2], [5.0, -5.0]])
    loss = DISTILLATION_LOSSES["hard_target"]()
    assert loss(student, teacher).item() == pytest.approx((math.log(4 / 3) + math.log(4)) / 2, abs=1e-6)
    with pytest.raises(ValueError, match="5 and 3 classes"):
        loss(vectors(0), vectors(1, 3))


def test_standardized_soft_targets_by_hand():
    # teacher (2, 0, 1): mean 1, deviation sqrt((1 + 1 + 0) / 2) = 1: (1, -1, 0); student (10, 30, 20): (-1, 1, 0)
    # One normalizer Z = e + 1/e + 1 for both: KL = sum p (z - z') = (2e - 2/e) / Z
    teacher, student = torch.tensor([[2.0, 0.0, 1.0]]), torch.tensor([[10.0, 30.0, 20.0]])
    loss = DISTILLATION_LOSSES["soft_target"](temperature=1.0, standardize=True)
    expected = 2 * (math.e - 1 / math.e) / (math.e + 1 / math.e + 1)
    assert loss(student, teacher).item() == pytest.approx(expected, abs=1e-4)


def test_standardizing_forgets_scale_and_shift_and_keeps_the_order():
    loss = DISTILLATION_LOSSES["soft_target"](temperature=2.0, standardize=True)
    expected = loss(vectors(0), vectors(1))
    torch.testing.assert_close(loss(3 * vectors(0) + 7, 0.5 * vectors(1) - 2), expected, rtol=1e-4, atol=0)
    assert loss(100 * vectors(1), vectors(1)) < 1e-5 < expected


def test_standardizing_equal_logits_has_a_finite_gradient():
    student = torch.zeros(6, 5, requires_grad=True)  # a head that begins with zeros
    DISTILLATION_LOSSES["soft_target"](standardize=True)(student, vectors(1)).backward()
    assert torch.isfinite(student.grad).all()


def test_standardizing_two_logits_is_refused_because_nothing_is_left():
    loss = DISTILLATION_LOSSES["soft_target"](standardize=True)
    with pytest.raises(ValueError, match=r"three classes.*however sure.*nothing is left"):
        loss(PAIR, PAIR)


@pytest.mark.parametrize("classes", [2, 7])
def test_the_scale_of_hdkd_divides_by_the_classes_too(classes):
    student, teacher = vectors(0, classes), vectors(1, classes)
    elements = F.kl_div(student.log_softmax(1), teacher.softmax(1), reduction="none")
    loss = DISTILLATION_LOSSES["soft_target"](temperature=1.0, scale="element")
    torch.testing.assert_close(loss(student, teacher), elements.mean())
    loss = DISTILLATION_LOSSES["soft_target"](temperature=1.0)
    torch.testing.assert_close(loss(student, teacher), elements.sum(1).mean())


MAPS = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(0))
TOKENS = torch.randn(2, 7, 4, generator=torch.Generator().manual_seed(1))


def test_a_hint_of_vectors_by_hand():
    # ((1 - 3)^2 + (2 - 2)^2 + 0 + 1) / 4
    student, teacher = torch.tensor([[1.0, 2.0], [0.0, 1.0]]), torch.tensor([[3.0, 2.0], [0.0, 0.0]])
    assert DISTILLATION_LOSSES["hint"]()(student, teacher).item() == pytest.approx(5 / 4)


def test_a_pooled_hint_compares_means_of_maps_and_tokens():
    loss = DISTILLATION_LOSSES["hint"](pool=True)
    expected = F.mse_loss(TOKENS.mean(1), MAPS.mean((2, 3)))
    torch.testing.assert_close(loss(TOKENS, MAPS), expected)
    torch.testing.assert_close(loss(TOKENS.mean(1), MAPS), expected)  # a vector is its own mean


def test_class_tokens_are_left_out():
    loss = DISTILLATION_LOSSES["hint"](pool=True, student_class_tokens=1, teacher_class_tokens=2)
    expected = F.mse_loss(TOKENS[:, 1:].mean(1), TOKENS[:, 2:].mean(1))
    torch.testing.assert_close(loss(TOKENS, TOKENS), expected)


def test_tokens_are_compared_one_by_one_with_as_many():
    teacher = TOKENS.flip(1)
    torch.testing.assert_close(DISTILLATION_LOSSES["hint"]()(TOKENS, teacher), F.mse_loss(TOKENS, teacher))
    projected = DISTILLATION_LOSSES["hint"]()
    assert projected(TOKENS, torch.zeros(2, 7, 6)) > 0
    assert str(projected.projector) == "learned 4 -> 6"


@pytest.mark.parametrize(
    ("teacher", "message"),
    [(TOKENS[:, 1:], "7 tokens and 6 tokens"), (MAPS, "7 tokens and a map"), (TOKENS[:, 0], "7 tokens and a vector")],
)
def test_features_of_different_kinds_must_be_pooled(teacher, message):
    with pytest.raises(ValueError, match=f"are {message}: give this term pool: true"):
        DISTILLATION_LOSSES["hint"]()(TOKENS, teacher)


@pytest.mark.parametrize("kind", ["learned", "mlp"])
@pytest.mark.parametrize("side", ["student", "teacher"])
def test_the_projector_stands_where_it_is_told_and_learns(side, kind):
    loss = DISTILLATION_LOSSES["hint"](projector=kind, projector_on=side)
    student, teacher = vectors(0, 4).requires_grad_(), vectors(1, 6).requires_grad_()
    loss(student, teacher).backward()
    assert str(loss.projector) == f"{kind} " + {"student": "4 -> 6", "teacher": "6 -> 4"}[side]
    assert all(parameter.grad.abs().sum() > 0 for parameter in loss.parameters())
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None


def test_on_the_teachers_side_a_constant_is_a_perfect_match_and_on_the_students_it_is_not():
    teacher, constant = vectors(1, 6, batch=50), torch.zeros(50, 4)
    loss = DISTILLATION_LOSSES["hint"](projector_on="teacher")
    loss(constant, teacher)
    with torch.no_grad():
        for parameter in loss.parameters():
            parameter.zero_()
    assert loss(constant, teacher) == 0
    loss = DISTILLATION_LOSSES["hint"](projector_on="student")
    loss(constant, teacher)
    with torch.no_grad():
        loss.projector.layer.bias.copy_(teacher.mean(0))  # the best that a projector makes of a constant
    torch.testing.assert_close(loss(constant, teacher), teacher.var(0, unbiased=False).mean())
