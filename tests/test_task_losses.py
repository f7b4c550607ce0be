"""Task losses: worked values, and MONAI's own where it has the same."""

import math

import pytest
import torch
from monai.losses import DiceLoss, FocalLoss

from utils.distillation.losses import TASK_LOSSES

ALL = sorted(TASK_LOSSES)


def random_logits(num_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, num_classes, 8, 8, generator=generator)
    return logits, torch.randint(num_classes, (3, 1, 8, 8), generator=generator)


@pytest.mark.parametrize("num_classes", [2, 4])
@pytest.mark.parametrize("name", ALL)
def test_a_perfect_prediction_costs_nothing_where_most_slices_are_empty(name, num_classes):
    target = torch.zeros(6, 1, 16, 16, dtype=torch.int64)
    target[2, :, 4:7, 5:9] = num_classes - 1
    logits = torch.nn.functional.one_hot(target[:, 0], num_classes).movedim(-1, 1) * 30.0
    assert TASK_LOSSES[name]()(logits, target).item() == pytest.approx(0, abs=1e-5)


# Two slices of 1x4 pixels, one pixel of tumor in the first, equal logits: p = 1/2 everywhere. Over the batch:
# Dice of the tumor = (2 * 1/2 + 1) / (4 + 1 + 1) = 1/3; per slice it would be (1/2 + 1/3) / 2
# of the background = (2 * 7/2 + 1) / (4 + 7 + 1) = 2/3; cross-entropy = ln 2; focal = (1 - 1/2)^2 ln 2
@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("cross_entropy", {}, math.log(2)),
        ("dice", {}, 2 / 3),
        ("dice", {"include_background": True}, 1 / 2),
        ("dice", {"smooth": 0.0}, 1 - 1 / 5),
        ("dice_ce", {}, 2 / 3 + math.log(2)),
        ("dice_focal", {}, 0.5 * 2 / 3 + 0.5 * math.log(2) / 4),
        ("dice_focal", {"dice_weight": 0.0, "focal_weight": 1.0, "gamma": 3.0}, math.log(2) / 8),
        ("dice_focal", {"detach_focal_weight": True}, 0.5 * 2 / 3 + 0.5 * math.log(2) / 4),
    ],
)
def test_a_worked_value(name, arguments, expected):
    target = torch.tensor([1, 0, 0, 0, 0, 0, 0, 0]).view(2, 1, 1, 4)
    assert TASK_LOSSES[name](**arguments)(torch.zeros(2, 2, 1, 4), target).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("labeled", ["all", "one class missing", "nothing"])
@pytest.mark.parametrize("include_background", [False, True])
@pytest.mark.parametrize("smooth", [1.0, 1e-5])
@pytest.mark.parametrize("num_classes", [2, 4])
def test_the_dice_loss_is_monais(num_classes, smooth, include_background, labeled):
    logits, target = random_logits(num_classes)
    target = {"all": target, "one class missing": target % (num_classes - 1), "nothing": 0 * target}[labeled]
    logits = (3 * logits).requires_grad_()
    ours = TASK_LOSSES["dice"](include_background=include_background, smooth=smooth)(logits, target)
    options = {"to_onehot_y": True, "softmax": True, "batch": True, "smooth_nr": smooth, "smooth_dr": smooth}
    monai = DiceLoss(include_background=include_background, **options)(logits, target)
    assert ours.item() == pytest.approx(monai.item(), abs=1e-6)
    (gradient,), (expected,) = (torch.autograd.grad(loss, logits) for loss in (ours, monai))
    torch.testing.assert_close(gradient, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("num_classes", [2, 4])
def test_the_focal_part_is_monais_softmax_focal_loss_summed_over_classes(num_classes):
    logits, target = random_logits(num_classes)
    ours = TASK_LOSSES["dice_focal"](dice_weight=0.0, focal_weight=1.0)
    monai = FocalLoss(to_onehot_y=True, use_softmax=True, gamma=2.0)
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(ours(logits, target), logits)
    (expected,) = torch.autograd.grad(num_classes * monai(logits, target), logits)
    torch.testing.assert_close(gradient, expected)


def test_the_published_focal_gradient_holds_its_weight_fixed():
    # d/dz of -(1 - p)^2 log p with (1 - p)^2 held: (1 - p)^2 (softmax - one_hot), averaged over pixels
    logits, target = random_logits(2)
    logits.requires_grad_()
    loss = TASK_LOSSES["dice_focal"](dice_weight=0.0, focal_weight=1.0, detach_focal_weight=True)
    (gradient,) = torch.autograd.grad(loss(logits, target), logits)
    probability = logits.detach().softmax(1)
    one_hot = torch.cat([target == 0, target == 1], 1).float()
    weight = (1 - (probability * one_hot).sum(1, keepdim=True)) ** 2
    torch.testing.assert_close(gradient, weight * (probability - one_hot) / target.numel())


@pytest.mark.parametrize("name", ALL)
def test_half_precision_is_computed_in_fp32(name):
    logits, target = random_logits(3)
    logits = logits.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        value = TASK_LOSSES[name]()(logits, target)
    assert value.dtype == torch.float32
    assert value.item() == TASK_LOSSES[name]()(logits.float(), target).item()


@pytest.mark.parametrize("name", ALL)
def test_a_small_step_against_the_gradient_lowers_it(name):
    logits, target = random_logits(3)
    logits.requires_grad_()
    loss = TASK_LOSSES[name]()
    before = loss(logits, target)
    before.backward()
    assert 0 < loss(logits - 0.1 * logits.grad / logits.grad.norm(), target) < before


@pytest.mark.parametrize("name", [name for name in ALL if name != "cross_entropy"])
def test_the_dice_losses_refuse_the_logits_of_whole_images(name):
    with pytest.raises(ValueError, match=r"\(3, 2\).*masks.*cross_entropy"):
        TASK_LOSSES[name]()(torch.zeros(3, 2), torch.tensor([0, 1, 1]))


def test_the_dice_loss_refuses_a_target_without_its_axis():
    with pytest.raises(ValueError, match=r"\(3, 8, 8\) do not fit"):
        TASK_LOSSES["dice"]()(torch.zeros(3, 2, 8, 8), torch.zeros(3, 8, 8, dtype=torch.int64))
