"""Worked values of the losses on logits beyond the published systems that this project began with; what is refused.

What all distillation losses have in common is in test_losses.py, losses on features in test_winning_features.py.
"""

import math

import pytest
import torch
from loss_features import make

from utils.distillation.losses import DISTILLATION_LOSSES
from utils.distillation.losses.body_edge import edge_band


def features(channels: int = 4, size: int = 8, batch: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(seed))


def row(*pixels: tuple[float, ...]) -> torch.Tensor:
    """An image of one row: (1, channels, 1, len(pixels))."""
    return torch.tensor(pixels).T.reshape(1, len(pixels[0]), 1, -1)


def logits_of(*probabilities: tuple[float, ...]) -> torch.Tensor:
    """A row of pixels whose softmax is this."""
    return row(*probabilities).log()


def test_channel_wise_at_temperature_2():
    # One channel, two positions: teacher (2 ln 3, 0) / 2 -> (3/4, 1/4), student (1/2, 1/2);
    # KL = 3/4 ln(3/2) + 1/4 ln(1/2) = 0.130812; times 2^2 = 0.523248. A second, equal channel halves it: 0.261624.
    teacher, student = row((2 * math.log(3), 5.0), (0.0, 7.0)), row((1.0, 5.0), (1.0, 7.0))
    loss = make("channel_wise", temperature=2.0)
    assert loss(student, teacher).item() == pytest.approx(0.261624, abs=1e-6)
    assert loss(student[:, :1], teacher[:, :1]).item() == pytest.approx(0.523248, abs=1e-6)
    # which is a softmax over positions: a constant in a channel is nothing, one in a position is something
    assert loss(student + torch.tensor([3.0, -2.0]).view(1, 2, 1, 1), teacher).item() == pytest.approx(
        0.261624, abs=1e-5
    )
    assert loss(student + row((1.0, 1.0), (0.0, 0.0)), teacher).item() < 0.25


def test_channel_wise_hears_a_small_tumor_that_a_mean_over_pixels_does_not():
    # 4 of 4096 pixels; the teacher sees the tumor, the student does not
    teacher, student = torch.zeros(1, 2, 64, 64), torch.zeros(1, 2, 64, 64)
    teacher[:, 1, 30:32, 30:32] = 40.0
    by_pixel, by_channel = make("soft_target")(student, teacher, None), make("channel_wise")(student, teacher)
    assert by_channel > 100 * by_pixel


@pytest.mark.parametrize(("temperature", "share"), [(1.0, 0.99083), (2.0, 0.42136), (4.0, 0.05640)])
def test_a_tumor_outweighs_the_background_of_its_channel_where_it_stands_out_by_enough_temperatures(temperature, share):
    # 20 of 4096 pixels, logits 10 above the others: its share of the softmax is 20 e^(10 / T) / (20 e^(10 / T) + 4076).
    # The gradient of a uniform student on it, summed, is temperature * (20 / 4096 - share) / 2 channels.
    teacher = torch.zeros(1, 2, 64, 64)
    teacher[:, 1, 30:34, 30:35] = 10.0
    student = torch.zeros(1, 2, 64, 64, requires_grad=True)
    make("channel_wise", temperature=temperature)(student, teacher).backward()
    expected = temperature * (20 / 4096 - share) / 2
    assert student.grad[:, 1, 30:34, 30:35].sum().item() == pytest.approx(expected, rel=1e-3)


def test_channel_wise_of_flat_channels_is_half_the_squared_difference_less_its_mean():
    student, teacher = 0.1 * features(), 0.1 * features(seed=1)
    difference = student - teacher
    expected = (difference - difference.mean((2, 3), keepdim=True)).square().mean() / 2
    torch.testing.assert_close(make("channel_wise")(student, teacher), expected, rtol=0.02, atol=0)


def test_dice_semimetric_by_hand():
    # Class 1: teacher q = (0.8, 0.1), student p = (0.5, 0.3): |p - q| = 0.5, |p| + |q| = 1.7
    teacher, student = logits_of((0.2, 0.8), (0.9, 0.1)), logits_of((0.5, 0.5), (0.7, 0.3))
    assert make("dice_semimetric")(student, teacher).item() == pytest.approx(0.5 / 1.7, abs=1e-5)
    # the background: |p - q| = 0.5, |p| + |q| = 1.1 + 1.2
    both = make("dice_semimetric", include_background=True)(student, teacher).item()
    assert both == pytest.approx((0.5 / 1.7 + 0.5 / 2.3) / 2, abs=1e-5)
    # one ratio over the batch, not one an image: a second, equal pair of pixels with |p| = |q| = 0.4
    teacher, student = (torch.cat([side, logits_of((0.6, 0.4), (1.0, 1e-9))]) for side in (teacher, student))
    assert make("dice_semimetric")(student, teacher).item() == pytest.approx(0.5 / 2.5, abs=1e-5)


def test_a_dice_semimetric_is_soft_dice_for_hard_targets_and_is_least_at_a_soft_one():
    hard, student = (features(2, seed=seed) for seed in (0, 1))
    hard = 1e5 * hard  # a softmax of zeros and ones
    p, q = student.softmax(1)[:, 1], hard.softmax(1)[:, 1]
    expected = 1 - 2 * (p * q).sum() / (p.sum() + q.sum())
    torch.testing.assert_close(make("dice_semimetric")(student, hard), expected, rtol=1e-4, atol=0)
    # for q = 0.6 soft Dice is least at p = 1, this at 0.6
    grid = torch.linspace(0.05, 0.95, 19)
    values = [make("dice_semimetric")(logits_of((1 - p, p)), logits_of((0.4, 0.6))) for p in grid.tolist()]
    assert grid[torch.stack(values).argmin()].item() == pytest.approx(0.6)


def test_the_edge_is_what_lies_within_the_width_of_another_label():
    labels = torch.zeros(1, 1, 9, 9, dtype=torch.int64)
    labels[..., 2:7, 2:7] = 2
    band = edge_band(labels, 1)[0, 0]
    # 7x7 dilated minus 3x3 eroded
    assert band.sum() == 49 - 9
    assert band[1, 1] and band[2, 2] and not band[3, 3] and not band[0, 0]
    assert not edge_band(torch.full_like(labels, 2), 3).any()  # the border of the image is none


def test_body_and_edge_by_hand():
    # A row 0 0 0 0 1 1: the band of width 1 is pixels 3 and 4; bodies are 0, 1, 2 and 5. The student is uniform, the
    # teacher's odds 3:1 at pixels 0 and 4, 9:1 at 5, even elsewhere. KL(3/4) = 0.130812, KL(9/10) = 0.368064.
    # Edge: 0.130812 / 2; body: (0.130812 / 3 + 0.368064) / 2.
    labels = torch.tensor([0, 0, 0, 0, 1, 1]).view(1, 1, 1, 6)
    odds = torch.tensor([3.0, 1.0, 1.0, 1.0, 3.0, 9.0]).log()
    teacher = torch.stack([odds, torch.zeros(6)]).view(1, 2, 1, 6)
    student = torch.zeros(1, 2, 1, 6)
    edge, body = 0.130812 / 2, (0.130812 / 3 + 0.368064) / 2

    def value(**arguments):
        return make("body_edge", edge_width=1, **arguments)(student, teacher, labels).item()

    assert value(temperature=1.0) == pytest.approx(body + edge, abs=1e-5)
    # at temperature 2, with logits twice as large, four times that
    assert make("body_edge", edge_width=1, temperature=2.0)(student, 2 * teacher, labels).item() == pytest.approx(
        4 * (body + edge), abs=1e-5
    )
    # no border in the image: no edge, and the body of one class
    whole = make("body_edge", temperature=1.0)(student, teacher, torch.ones_like(labels)).item()
    assert whole == pytest.approx((2 * 0.130812 + 0.368064) / 6, abs=1e-5)
    # an image without labels has neither
    assert make("body_edge")(student, teacher, torch.full_like(labels, -1)) == 0


def test_dist_by_hand():
    # Three classes, two pixels. Teacher (0.6, 0.3, 0.1), (0.1, 0.3, 0.6); student (0.6, 0.1, 0.3), (0.3, 0.1, 0.6).
    # Inter, centered (times 30): teacher (8, -1, -7), student (8, -7, -1): 78 / 114; the second pixel is its mirror.
    # 1 - 78 / 114 = 0.315789. Intra: class 0 and 2 go the same way (0), class 1 is constant in both (0): 0.
    teacher = logits_of((0.6, 0.3, 0.1), (0.1, 0.3, 0.6))
    student = logits_of((0.6, 0.1, 0.3), (0.3, 0.1, 0.6))
    assert make("dist")(student, teacher).item() == pytest.approx(0.315789, abs=1e-5)
    assert make("dist", inter_weight=0.0)(student, teacher).item() == pytest.approx(0, abs=1e-6)
    # now the student's pixels exchanged: intra 2 for classes 0 and 2, 0 for class 1: 4 / 3; inter, times 30, the
    # teacher's (8, -1, -7) against (-1, -7, 8): -57 / 114, 1 + 1 / 2
    exchanged = student.flip(3)
    assert make("dist", inter_weight=0.0)(exchanged, teacher).item() == pytest.approx(4 / 3, abs=1e-5)
    assert make("dist", intra_weight=0.0)(exchanged, teacher).item() == pytest.approx(1.5, abs=1e-5)
    # vectors are pixels without a place; temperature 2 with logits twice as large is 4 times that
    vectors = [side[0, :, 0].T for side in (student, teacher)]
    assert make("dist")(*vectors).item() == pytest.approx(0.315789, abs=1e-5)
    assert make("dist", temperature=2.0)(2 * student, 2 * teacher).item() == pytest.approx(4 * 0.315789, abs=1e-4)


def test_dist_of_two_classes_is_refused_or_what_is_left_of_it():
    student, teacher = features(2), features(2, seed=1)
    with pytest.raises(ValueError, match=r"dist needs three classes.*inter_weight: 0"):
        make("dist")(student, teacher)
    assert make("dist", inter_weight=0.0)(student, teacher) > 0.1


@pytest.mark.parametrize("name", ["body_edge", "dice_semimetric", "dist"])
def test_logits_of_other_classes_are_refused(name):
    with pytest.raises(ValueError, match="logits of the same classes"):
        make(name)(features(3), features(4), torch.zeros(2, 1, 8, 8, dtype=torch.int64))


MAPS = ["attention_feature", "body_edge", "channel_wise", "cross_image", "dice_semimetric"]
MAPS += ["region_affinity", "region_normalized", "wavelet"]


@pytest.mark.parametrize("name", MAPS)
def test_a_vector_is_refused_where_maps_are_needed(name):
    with pytest.raises(ValueError, match=r"must both be maps"):
        make(name)(torch.zeros(2, 4), torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64))


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("attention_feature", {"teacher_normalization": "layer"}, "'layer'"),
        ("body_edge", {"temperature": 0.0}, "temperature 0.0"),
        ("body_edge", {"edge_width": 0}, "edge_width 0"),
        ("channel_wise", {"temperature": -1.0}, "temperature -1.0"),
        ("cross_image", {"temperature": 0.0}, "temperature 0.0"),
        ("cross_image", {"grid": 1}, "grid 1"),
        ("dice_semimetric", {"smooth": 0.0}, "smooth 0.0"),
        ("dist", {"inter_weight": -1.0}, "inter_weight -1.0"),
        ("dist", {"temperature": 0.0}, "temperature 0.0"),
        ("hint", {"teacher_normalization": "batch"}, "'batch'"),
        ("wavelet", {"levels": 0}, "levels 0"),
    ],
)
def test_a_wrong_argument_is_refused_with_its_value(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        DISTILLATION_LOSSES[name](**arguments)
