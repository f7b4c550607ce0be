"""Worked values of the losses on features beyond the published systems that this project began with.

What all distillation losses have in common is in test_losses.py, losses on logits in test_winning_losses.py.
"""

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from loss_features import make

from utils.distillation.losses.attention_feature import refined
from utils.distillation.losses.normalization import normalized
from utils.distillation.losses.wavelet import haar


def features(channels: int = 4, size: int = 8, batch: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(seed))


def row(*pixels: tuple[float, ...]) -> torch.Tensor:
    """An image of one row: (1, channels, 1, len(pixels))."""
    return torch.tensor(pixels).T.reshape(1, len(pixels[0]), 1, -1)


def test_attention_refines_channels_then_positions():
    # Channel 0 is 3 and 1, channel 1 is 1 and 1: mean + maximum 5 and 2, z-scores 1 and -1. Positions then have
    # (3 a, b) and (a, b), a = sigmoid(1) = 0.731059, b = sigmoid(-1) = 0.268941: mean + maximum (4.5 a + 0.5 b) and
    # (1.5 a + 0.5 b), z-scores 1 and -1 again.
    a, b = 0.731059, 0.268941
    expected = row((3 * a * a, b * a), (a * b, b * b))
    torch.testing.assert_close(refined(row((3.0, 1.0), (1.0, 1.0))), expected, rtol=1e-5, atol=1e-6)


def test_attention_takes_the_mean_and_the_maximum():
    # channels: mean 1 and 1.4, maximum 2 and 1.4, together 3 and 2.8: the first is above, by its maximum
    channels = refined(row((2.0, 1.4), (0.0, 1.4)))[0, :, 0, 0] / torch.tensor([2.0, 1.4])
    assert channels[0] > channels[1]
    # mean 1 and 1.7, maximum 2 and 1.9, together 3 and 3.6: the second, by its mean
    channels = refined(row((2.0, 1.9), (0.0, 1.5)))[0, :, 0, 0] / torch.tensor([2.0, 1.9])
    assert channels[0] < channels[1]
    # positions likewise; their mirrors keep the channels even
    positions = refined(row((2.0, 0.0), (1.4, 1.4), (0.0, 2.0), (1.4, 1.4)))[0, 0, 0] / torch.tensor([2, 1.4, 1, 1.4])
    assert positions[0] > positions[1]
    positions = refined(row((2.0, 0.0), (1.9, 1.5), (0.0, 2.0), (1.5, 1.9)))[0, 0, 0] / torch.tensor([2, 1.9, 1, 1.5])
    assert positions[0] < positions[1]


def test_attention_feature_is_the_squared_distance_of_unit_vectors():
    # against (1, 1), (1, 1), whose attention is even (1/4 of it everywhere): cos = sum of the above / (2 |above|)
    a, b = 0.731059, 0.268941
    values = [3 * a * a, a * b, a * b, b * b]
    cosine = sum(values) / (2 * math.sqrt(sum(value**2 for value in values)))
    student, teacher = row((1.0, 1.0), (1.0, 1.0)), row((3.0, 1.0), (1.0, 1.0))
    value = make("attention_feature")(student, teacher).item()
    assert value == pytest.approx(2 - 2 * cosine, abs=1e-5)
    # of each image, not of the batch: a second image 100 times as large does not outweigh the first
    twice = make("attention_feature")(torch.cat([student, 100 * teacher]), torch.cat([teacher, 100 * teacher])).item()
    assert twice == pytest.approx((2 - 2 * cosine) / 2, abs=1e-5)


def test_a_teacher_is_standardized_over_channels():
    # (1, 3) and (5, 5): mean 2, deviation 1 -> (-1, 1); the second does not vary: 0
    standardized = normalized(row((1.0, 3.0), (5.0, 5.0)), "standardize")
    torch.testing.assert_close(standardized, row((-1.0, 1.0), (0.0, 0.0)), rtol=1e-4, atol=1e-4)
    student, teacher = features(2, 4), features(2, 4, seed=1)
    assert normalized(teacher, "none") is teacher
    for name in ("hint", "attention_feature"):
        value = make(name, teacher_normalization="standardize")(student, teacher)
        torch.testing.assert_close(value, make(name)(student, normalized(teacher, "standardize")))


def test_cross_image_by_hand():
    # Two images of two pixels: (1, 0), (0, 1) and (1, 0), (1, 0) for the teacher, all (1, 0) for the student.
    # At temperature 1 / ln 3 a row is 3^cosine: the teacher's first pixel sees (3/4, 1/4) in its own image and (1/2,
    # 1/2) in the other; the second (1/4, 3/4) and (1/2, 1/2); those of the other image (3/4, 1/4) in the first.
    # The student sees (1/2, 1/2) everywhere: 4 of 8 rows cost KL = 0.130812, the mean is 0.065406.
    teacher = torch.cat([row((1.0, 0.0), (0.0, 1.0)), row((1.0, 0.0), (1.0, 0.0))])
    student = row((2.0, 0.0), (5.0, 0.0)).repeat(2, 1, 1, 1)
    loss = make("cross_image", temperature=1 / math.log(3))
    assert loss(student, teacher).item() == pytest.approx(0.065406, abs=1e-6)
    # one image: its own pixels, both rows 0.130812
    assert loss(student[:1], teacher[:1]).item() == pytest.approx(0.130812, abs=1e-6)


def test_cross_image_compares_images_of_one_batch():
    # each image alone looks the same to student and teacher, the second is turned against the first
    student, teacher = features(4, 4, batch=2), features(4, 4, batch=2)
    teacher[1] = -teacher[1]
    loss = make("cross_image")
    assert loss(student[1:], teacher[1:]).item() == pytest.approx(0, abs=1e-5)
    assert loss(student, teacher) > 0.1


def test_the_haar_bands_by_hand():
    # (3, 1; 1, 1): mean 6 / 4; left - right (3 - 1 + 1 - 1) / 4, top - bottom (3 + 1 - 1 - 1) / 4, diagonal likewise
    low, details = haar(torch.tensor([[3.0, 1.0], [1.0, 1.0]]).view(1, 1, 2, 2))
    assert low.item() == pytest.approx(1.5)
    assert [band.item() for band in details] == [0.5, 0.5, 0.5]


def test_wavelet_by_hand():
    # The difference is 4 in one of 4x4 pixels: level 1 has one block of 4 with bands 1, 1, 1 -> 3 / 4; its orthonormal
    # coarse band, twice the mean 1, is one of 2x2 at level 2: bands 2 / 4 each -> 3 / 4.
    student, teacher = torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)
    student[..., 2, 1] = 4.0
    assert make("wavelet", levels=2)(student, teacher).item() == pytest.approx(3 / 4)
    assert make("wavelet")(student, teacher).item() == pytest.approx(3 / 4)  # there is no third level
    assert make("wavelet", levels=1)(student, teacher).item() == pytest.approx(3 / 4)
    # which band is the diagonal one: a checkerboard is nothing else, (1, -1; -1, 1) has bands 0, 0, 1
    board = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).view(1, 1, 2, 2)
    assert make("wavelet")(board, torch.zeros_like(board)).item() == pytest.approx(1)


def test_wavelet_levels_weigh_as_in_an_orthonormal_transform():
    # level l holds what the means of blocks of side 2^(l-1) and 2^l do not share; it counts 4^(l-1) times
    student, teacher = features(3, 16), features(3, 16, seed=1)
    difference = student - teacher
    means = [F.interpolate(F.avg_pool2d(difference, side), scale_factor=side) for side in (1, 2, 4, 8)]
    levels = [(fine - coarse).square().mean() for fine, coarse in pairwise(means)]
    expected = (levels[0] + 4 * levels[1] + 16 * levels[2]) / 3
    torch.testing.assert_close(make("wavelet", levels=3)(student, teacher), expected)
    torch.testing.assert_close(make("wavelet", levels=3)(student + 7, teacher), expected, rtol=1e-4, atol=0)


def test_wavelet_equals_a_transform_by_orthonormal_matrices():
    # H X H^T with rows (1, 1) / sqrt 2 and (1, -1) / sqrt 2, the coarse quarter set to 0 and transformed back, level by
    # level on the coarse quarter, as the published module does it
    difference, losses = features(2, 8) - features(2, 8, seed=1), []
    coarse = difference.double()
    while coarse.shape[-1] > 1:
        half = coarse.shape[-1] // 2
        rows = torch.zeros(2 * half, 2 * half, dtype=torch.float64)
        for index in range(half):
            rows[index, 2 * index : 2 * index + 2] = torch.tensor([1.0, 1.0]) / 2**0.5
            rows[half + index, 2 * index : 2 * index + 2] = torch.tensor([1.0, -1.0]) / 2**0.5
        bands = rows @ coarse @ rows.T
        coarse = bands[..., :half, :half].clone()
        bands[..., :half, :half] = 0
        losses.append((rows.T @ bands @ rows).square().mean())
    loss = make("wavelet", levels=3)(features(2, 8), features(2, 8, seed=1))
    assert loss.item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-5)


def test_wavelet_takes_odd_sides():
    odd = make("wavelet")(features(3, 7), features(3, 7, seed=1))
    assert torch.isfinite(odd) and odd > 0


def test_region_normalized_by_hand():
    # Two images of 8 pixels. Image 0: seven of class 0, student and teacher at a right angle in one of them (distance
    # 2), and one of class 1, opposite (4). Image 1: class 0 only, a right angle everywhere (2).
    # Class 0: (2 / 7 + 2) / 2 = 8 / 7, class 1: 4 from the one image that has it; mean 18 / 7 = 2.571429.
    labels = torch.zeros(2, 1, 1, 8, dtype=torch.int64)
    labels[0, ..., 7] = 1
    teacher = torch.cat([row(*[(3.0, 0.0)] * 8)] * 2)
    student = teacher.clone()
    student[0, :, 0, 0] = torch.tensor([0.0, 5.0])
    student[0, :, 0, 7] = torch.tensor([-1.0, 0.0])
    student[1] = torch.tensor([0.0, 2.0]).view(2, 1, 1)
    value = make("region_normalized")(student, teacher, labels).item()
    assert value == pytest.approx(18 / 7, rel=1e-3)  # vectors are a little short of 1
    # classes that are nowhere change nothing
    assert make("region_normalized", num_classes=5)(student, teacher, labels).item() == pytest.approx(value)
    # weighed by shares where the target is finer: a pixel half of each class
    fine = torch.tensor([0, 1, 1, 1]).view(1, 1, 1, 4)
    student, teacher = row((0.0, 1.0), (1.0, 0.0)), row((1.0, 0.0), (1.0, 0.0))
    # distances 2 and 0: class 0 has half of pixel 0 only: 2; class 1 half of it and pixel 1: 2 / 3; mean 4 / 3
    assert make("region_normalized")(student, teacher, fine).item() == pytest.approx(4 / 3, rel=1e-3)


def test_region_normalized_leaves_out_an_image_without_labels():
    student, teacher = features(), features(seed=1)
    target = torch.zeros(2, 1, 8, 8, dtype=torch.int64)
    target[:, :, 2:5, 3:6] = 1
    expected = make("region_normalized")(student[:1], teacher[:1], target[:1])
    target[1] = -1
    torch.testing.assert_close(make("region_normalized")(student, teacher, target), expected)
    assert make("region_normalized")(student, teacher, torch.full_like(target, -1)) == 0


@pytest.mark.parametrize("side", [2, 4, 16])
def test_region_normalized_hears_a_tumor_whatever_its_size_where_others_fall_silent(side):
    # a 64x64 target, 8x8 features; the student is wrong about the cells of the tumor and right elsewhere
    target = torch.zeros(1, 1, 64, 64, dtype=torch.int64)
    target[..., 17 : 17 + side, 17 : 17 + side] = 1
    teacher = features(4, 8, batch=1)
    cells = F.interpolate((target == 1).float(), size=(8, 8), mode="area") > 0
    student = torch.where(cells, -teacher, teacher)
    assert 1.9 < make("region_normalized")(student, teacher, target).item() < 2.4  # 4 in the tumor, 0 beside it
    if side == 2:
        assert make("region_affinity", as_published=True)(student, teacher, target) == 0
        assert make("hint")(student, teacher, None) < 0.2


@pytest.mark.parametrize("name", ["region_affinity", "region_normalized"])
def test_regions_need_a_mask_not_a_label_an_image(name):
    with pytest.raises(ValueError, match=r"target \(2,\) has no regions.*mask \(B, 1, Y, X\)"):
        make(name)(features(), features(seed=1), torch.tensor([0, 1]))


@pytest.mark.parametrize("name", ["body_edge", "region_normalized"])
def test_a_batch_without_labels_has_a_gradient_of_zero(name):
    student = features(3).requires_grad_()
    make(name)(student, features(3, seed=1), torch.full((2, 1, 8, 8), -1)).backward()
    assert not student.grad.any()


@pytest.mark.parametrize("name", ["cross_image", "wavelet"])
def test_a_feature_of_one_pixel_is_refused(name):
    with pytest.raises(ValueError, match=r"one pixel.*tap an earlier place"):
        make(name)(torch.zeros(2, 4, 1, 1), torch.zeros(2, 4, 1, 1))
