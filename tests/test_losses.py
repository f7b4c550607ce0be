"""Distillation losses: the contract for every entry of DISTILLATION_LOSSES, and worked values."""

import math

import pytest
import torch
import torch.nn.functional as F
from loss_features import features, labels, make, row

from utils.distillation.losses import DISTILLATION_LOSSES
from utils.distillation.losses.attention_transfer import attention

ALL = sorted(DISTILLATION_LOSSES)
DISTANCES = [name for name in ALL if name not in ("holistic", "hard_target")]  # an adversary, a cross-entropy
PROJECTED = ["attention_feature", "channel_wise", "hint", "region_normalized", "soft_target", "unified_soft_target"]
PROJECTED += ["wavelet"]
VARIANTS = [
    *((name, {}) for name in DISTANCES),
    ("attention_transfer", {"power": 4}),
    ("attention_transfer", {"power": 1, "squared": False}),
    ("body_edge", {"edge_width": 1}),
    ("decoupled", {"alpha": 0.0, "temperature": 1.0}),
    ("dice_semimetric", {"include_background": True}),
    ("dist", {"inter_weight": 0.0, "temperature": 4.0}),
    ("hint", {"pool": True, "projector_on": "teacher"}),
    ("pairwise", {"pool": "max", "scale": 0.5}),
    ("region_affinity", {"as_published": True}),
    ("soft_target", {"temperature": 1.0, "reverse": True}),
    ("soft_target", {"scale": "as_published"}),
    ("soft_target", {"scale": "element", "standardize": True}),
    ("wavelet", {"levels": 1}),
]


@pytest.mark.parametrize(("name", "arguments"), VARIANTS)
def test_equal_features_cost_nothing(name, arguments):
    loss = make(name, **arguments)(features(), features(), labels())
    assert loss.ndim == 0
    assert loss.item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("name", "arguments"), VARIANTS)
def test_a_small_step_against_the_gradient_lowers_it(name, arguments):
    loss = make(name, **arguments)
    student, teacher = features().requires_grad_(), features(seed=1)
    before = loss(student, teacher, labels())
    before.backward()
    step = 1e-2 * student.grad / student.grad.norm()
    after = loss(student.detach() - step, teacher, labels())
    assert 0 <= after < before


@pytest.mark.parametrize(("name", "arguments"), VARIANTS)
def test_tiling_the_image_changes_nothing(name, arguments):
    def tiled(tensor):
        if name in ("pairwise", "cross_image"):  # their nodes cover a share of the image: enlarge it instead
            return tensor.repeat_interleave(2, 2).repeat_interleave(2, 3)
        return tensor.tile(1, 1, 2, 2)

    loss = make(name, **arguments)
    student, teacher, target = features(), features(seed=1), labels()
    expected = loss(student, teacher, target)
    torch.testing.assert_close(loss(tiled(student), tiled(teacher), tiled(target)), expected)


@pytest.mark.parametrize("name", ALL)
def test_repeating_the_batch_changes_nothing(name):
    loss = make(name)
    student, teacher, target = features(), features(seed=1), labels()
    loss(student, teacher, target)  # creates what the loss learns
    loss.eval()
    expected = loss(student, teacher, target)
    torch.testing.assert_close(
        loss(student.tile(3, 1, 1, 1), teacher.tile(3, 1, 1, 1), target.tile(3, 1, 1, 1)), expected
    )


@pytest.mark.parametrize("name", ALL)
def test_half_precision_and_autocast_compute_in_fp32(name):
    loss = make(name, **({"projector": "learned"} if name in PROJECTED else {}))
    student, teacher, target = (
        features().bfloat16(),
        features(6 if name in PROJECTED else 4, seed=1).bfloat16(),
        labels(),
    )
    loss(student, teacher, target)
    loss.eval()
    expected = loss(student.float(), teacher.float(), target)
    assert expected.dtype == torch.float32
    assert loss(student, teacher, target).item() == expected.item()
    with torch.autocast("cpu", torch.bfloat16):
        assert loss(student.float(), teacher.float(), target).item() == expected.item()


@pytest.mark.parametrize("projector", ["learned", "orthogonal"])
@pytest.mark.parametrize("name", ALL)
def test_the_gradient_reaches_the_student_and_every_parameter_but_not_the_teacher(name, projector):
    loss = make(name, **({"projector": projector} if name in PROJECTED else {}))
    student = features().requires_grad_()
    teacher = features(6 if name in PROJECTED else 4, seed=1).requires_grad_()
    with torch.inference_mode():
        loss(student.detach(), teacher.detach(), labels())  # a dry run may come first
    loss(student, teacher, labels()).backward()
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None
    if name in [*PROJECTED, "holistic"]:
        assert list(loss.parameters())
    for parameter in loss.parameters():
        assert parameter.requires_grad
        assert parameter.grad.abs().sum() > 0


@pytest.mark.parametrize("name", ALL)
def test_a_teacher_in_inference_mode_and_dead_features_give_finite_gradients(name):
    with torch.inference_mode():
        teacher = features(seed=1)
    student = torch.zeros(2, 4, 16, 16, requires_grad=True)
    loss = make(name)(student, teacher, labels())
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(student.grad).all()


SCALE_FREE = ["attention_feature", "attention_transfer", "cross_image", "pairwise", "region_affinity"]
SCALE_FREE += ["region_normalized", "unified_attention"]


@pytest.mark.parametrize("name", SCALE_FREE)
@pytest.mark.parametrize("factor", [10.0, 1e-4, 1e4])
def test_scaling_a_feature_changes_nothing(name, factor):
    loss = make(name, **({"power": 4} if name.endswith(("transfer", "unified_attention")) else {}))
    student, teacher = features(), features(seed=1)
    expected = loss(student, teacher, labels())
    torch.testing.assert_close(loss(factor * student, teacher, labels()), expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", [name for name in ALL if name != "holistic"])
def test_student_and_teacher_may_differ_in_size_and_the_target_in_both(name):
    student, teacher = features(size=8), features(size=16, seed=1)
    assert make(name)(student, teacher, labels(size=48)) > 0
    assert make(name)(teacher, student, labels(size=48)) > 0


def test_soft_target_at_temperature_2():
    # teacher logits (2 ln 3, 0) at temperature 2: softmax (3/4, 1/4); student (1/2, 1/2)
    # KL = 3/4 ln(3/2) + 1/4 ln(1/2) = 0.130812; times 2^2 = 0.523248; the second pixel is equal: mean 0.261624
    teacher = torch.tensor([2 * math.log(3), 0.0]).view(1, 2, 1, 1) * torch.tensor([1.0, 0.0])
    student = torch.zeros(1, 2, 1, 2)
    build = DISTILLATION_LOSSES["soft_target"]
    assert build(temperature=2.0)(student, teacher, None).item() == pytest.approx(0.261624, abs=1e-6)
    assert build(temperature=2.0)(student[..., 0, 0], teacher[..., 0, 0], None).item() == pytest.approx(
        0.523248, abs=1e-6
    )
    # the other direction: 1/2 ln(2/3) + 1/2 ln 2 = 0.143841; times 4 / 2 = 0.287682
    assert build(temperature=2.0, reverse=True)(student, teacher, None).item() == pytest.approx(0.287682, abs=1e-6)


def test_corners_are_aligned_where_a_soft_target_asks():
    # two pixels resized to four: 0, 1/3, 2/3, 1 of the way with aligned corners, 0, 1/4, 3/4, 1 without
    student = torch.tensor([[0.0, 3.0], [0.0, 0.0]]).view(1, 2, 1, 2)
    aligned = torch.tensor([[0.0, 1.0, 2.0, 3.0], [0.0, 0.0, 0.0, 0.0]]).view(1, 2, 1, 4)
    usual = torch.tensor([[0.0, 0.75, 2.25, 3.0], [0.0, 0.0, 0.0, 0.0]]).view(1, 2, 1, 4)
    build = DISTILLATION_LOSSES["soft_target"]
    assert build(align_corners=True)(student, aligned, None).item() == pytest.approx(0, abs=1e-6)
    assert build()(student, usual, None).item() == pytest.approx(0, abs=1e-6)
    assert build()(student, aligned, None).item() > 1e-3


@pytest.mark.parametrize("channels", [2, 3, 8])
def test_the_published_scale_is_two_over_the_channels(channels):
    student, teacher = features(channels), features(channels, seed=1)
    expected = DISTILLATION_LOSSES["soft_target"]()(student, teacher, None) * 2 / channels
    torch.testing.assert_close(
        DISTILLATION_LOSSES["soft_target"](scale="as_published")(student, teacher, None), expected
    )


def test_attention_transfer_by_hand():
    # student |1|, |2|; teacher |1|, |1|: the distance of unit vectors is 2 - 2 cos
    student, teacher = torch.tensor([1.0, -2.0]).view(1, 1, 1, 2), torch.ones(1, 3, 1, 2)
    build = DISTILLATION_LOSSES["attention_transfer"]
    for power, cosine in [(1, 3 / math.sqrt(5 * 2)), (2, 5 / math.sqrt(17 * 2)), (4, 17 / math.sqrt(257 * 2))]:
        assert build(power=power)(student, teacher, None).item() == pytest.approx(2 - 2 * cosine, abs=1e-6)
        norm = build(power=power, squared=False)(student, teacher, None).item()
        assert norm == pytest.approx(math.sqrt(2 - 2 * cosine), abs=1e-6)


@pytest.mark.parametrize("power", [1, 1.5, 2, 3, 4])
def test_the_gradient_of_attention_is_that_of_its_formula(power):
    feature, direction = features().requires_grad_(), features(1, seed=2).flatten(1)
    value = attention(feature, power)
    formula = F.normalize(feature.abs().pow(power).mean(1).flatten(1))
    torch.testing.assert_close(value, formula)
    (gradient,) = torch.autograd.grad((value * direction).sum(), feature)
    (expected,) = torch.autograd.grad((formula * direction).sum(), feature)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-7)


def test_hint_by_hand():
    # ((1 - 3)^2 + (2 - 2)^2) / 2 = 2
    assert DISTILLATION_LOSSES["hint"]()(row((1, 2)), row((3, 2)), None).item() == pytest.approx(2)


def test_the_discriminator_lowers_the_holistic_loss_and_the_student_raises_it():
    loss = DISTILLATION_LOSSES["holistic"]()
    student, teacher = features(3).requires_grad_(), features(3, seed=1)
    loss(student, teacher, None)
    loss.eval()  # spectral normalization stands still
    before = loss(student, teacher, None)
    before.backward()
    assert loss(student + student.grad / student.grad.norm(), teacher, None) < before
    assert loss(student - student.grad / student.grad.norm(), teacher, None) > before
    with torch.no_grad():
        for parameter in loss.parameters():
            parameter -= 1e-2 * parameter.grad
    assert loss(student, teacher, None) < before


def test_a_blind_discriminator_costs_log_2():
    loss = DISTILLATION_LOSSES["holistic"]()
    assert loss(features(3), features(3), None) >= math.log(2) - 1e-6
    loss.discriminator = torch.nn.Conv2d(3, 1, 1)
    torch.nn.init.zeros_(loss.discriminator.weight)
    torch.nn.init.zeros_(loss.discriminator.bias)
    assert loss(features(3), features(3, seed=1), None).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize(
    ("name", "plain", "arguments"),
    [
        ("unified_attention", "attention_transfer", {"power": 4}),
        ("unified_soft_target", "soft_target", {"projector": "none"}),
    ],
)
def test_unified_losses_join_several_features_on_either_side(name, plain, arguments):
    # 4 + 2 channels; 16x16 averaged to 8x8, then the joined side resized to the other's 16x16
    parts, whole = [features(4, 16), features(2, 8, seed=1)], features(6, 16, seed=2)
    joined = torch.cat([F.avg_pool2d(parts[0], 2), parts[1]], 1)
    joined = F.interpolate(joined, size=(16, 16), mode="bilinear")
    loss, plain = make(name, **arguments), make(plain, **arguments)
    torch.testing.assert_close(loss(parts, whole, None), plain(joined, whole, None))
    torch.testing.assert_close(loss(whole, parts, None), plain(whole, joined, None))
    assert [part.shape[2] for part in parts] == [16, 8]  # the caller's list is left alone


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("soft_target", {"temperature": 0}, "temperature 0"),
        ("soft_target", {"scale": "sum"}, "'sum'"),
        ("attention_transfer", {"power": 0.5}, "power 0.5"),
        ("pairwise", {"grid": 1}, "grid 1"),
        ("pairwise", {"pool": "mean"}, "'mean'"),
        ("pairwise", {"scale": 2.0}, "scale 2.0"),
        ("hint", {"projector": "linear"}, "'linear'"),
        ("hint", {"projector_on": "both"}, "projector_on 'both'"),
        ("decoupled", {"temperature": -1.0}, "temperature -1.0"),
        ("decoupled", {"beta": -1.0}, "beta -1.0"),
        ("decoupled", {"alpha": 0.0, "beta": 0.0}, "alpha 0.0 and beta 0.0"),
    ],
)
def test_a_wrong_argument_is_refused_with_its_value(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        DISTILLATION_LOSSES[name](**arguments)
