"""Losses of relations between pixels or regions: worked values."""

from functools import partial

import pytest
import torch
from loss_features import features, make, row


def test_region_affinity_by_hand():
    build = partial(make, "region_affinity")
    student, teacher = row((1, 0), (1, 0), (1, 0)), row((1, 0), (0, 1), (3, 4))
    # two classes, pixels 0 and 2: cosines 1 and 3/5, (1 - 3/5)^2 = 0.16
    two = torch.tensor([0, 1]).view(1, 1, 1, 2)
    assert build()(student[..., [0, 2]], teacher[..., [0, 2]], two).item() == pytest.approx(0.16)
    assert build(as_published=True)(student[..., [0, 2]], teacher[..., [0, 2]], two).item() == pytest.approx(0.16)
    # three classes: student 1, 1, 1; teacher 0, 3/5, 4/5: (1 + 0.16 + 0.04) / 3 = 0.4
    three = torch.tensor([0, 1, 2]).view(1, 1, 1, 3)
    assert build()(student, teacher, three).item() == pytest.approx(0.4)
    # the paper's one number: ((1 + 0.4 + 0.2) / 3)^2 = 0.284444
    assert build(as_published=True)(student, teacher, three).item() == pytest.approx(0.284444, abs=1e-6)
    # a class that is nowhere changes nothing: labels 0 and 2, pixels 0 and 2
    assert build(num_classes=5)(student[..., [0, 2]], teacher[..., [0, 2]], 2 * two).item() == pytest.approx(0.16)
    # an image with one class has no pair, and halves the mean of the batch
    student, teacher, target = student.tile(2, 1, 1, 1), teacher.tile(2, 1, 1, 1), three.tile(2, 1, 1, 1)
    target[1] = 1
    assert build()(student, teacher, target).item() == pytest.approx(0.2)


def test_region_affinity_keeps_a_small_tumor_that_the_published_one_loses():
    target = torch.zeros(1, 1, 32, 32, dtype=torch.int64)
    target[:, :, 9:11, 9:11] = 1  # 2x2 pixels inside the cell 8..15 of a 4x4 feature, away from its corner (8, 8)
    student, teacher = features(size=4, batch=1), features(size=4, batch=1, seed=1)
    assert make("region_affinity")(student, teacher, target) > 1e-3
    assert make("region_affinity", as_published=True)(student, teacher, target) == 0


def test_pairwise_by_hand():
    # two nodes: student cosine 1, teacher 3/5; (2/5)^2 twice in an affinity of four: 0.08
    loss = make("pairwise")
    assert loss(row((1, 0), (2, 0)), row((5, 0), (3, 4)), None).item() == pytest.approx(0.08)


@pytest.mark.parametrize(("size", "nodes"), [(65, 9), (48, 4)])
def test_the_published_pooling_leaves_few_nodes(size, nodes):
    # kernel 32 of 65 with a ragged last window: 3x3; 24 of 48: 2x2
    loss = make("pairwise", pool="max", scale=0.5)
    assert loss._nodes(features(size=size), [8, 8]).shape == (2, 4, nodes)
