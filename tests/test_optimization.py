"""The learning rate by step and by score, and which samples an epoch sees."""

from collections import Counter

import pytest
import torch
from torch import nn

from utils.recipe.schema import Training
from utils.training.optimization import Schedule, make_optimizer
from utils.training.order import Order, labeled_of


def schedule_of(steps_per_epoch: int = 10, **settings) -> Schedule:
    settings = Training(learning_rate=0.1, **settings)
    return Schedule(make_optimizer(nn.Linear(1, 1).parameters(), settings), settings, steps_per_epoch)


def test_a_warm_up_rises_linearly_and_the_cosine_ends_at_the_minimum():
    schedule = schedule_of(epochs=2, warmup_epochs=0.5, minimum_learning_rate=0.01)  # 5 steps up, 15 down
    rates = []
    for _ in range(20):
        rates.append(schedule.learning_rate)
        schedule.optimizer.step()
        schedule.step()
    assert rates[:5] == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1])
    assert rates[5] == pytest.approx(0.1)
    # a third of the way: 0.01 + 0.09 (1 + cos 60) / 2 = 0.0775
    assert rates[10] == pytest.approx(0.0775)
    assert schedule.learning_rate == pytest.approx(0.01)


def test_a_plateau_halves_the_rate_after_more_than_its_patience_without_a_better_score():
    schedule = schedule_of(schedule="plateau", plateau_patience=2, plateau_factor=0.5)
    rates = []
    for score in (0.5, 0.6, 0.6, 0.5, 0.6, 0.7):  # best at the second; three validations in a row no better
        schedule.step()
        schedule.validated(score)
        rates.append(schedule.learning_rate)
    assert rates == pytest.approx([0.1, 0.1, 0.1, 0.1, 0.05, 0.05])


def test_a_plateau_goes_on_counting_after_a_resume():
    first = schedule_of(schedule="plateau", plateau_patience=1)
    for score in (0.5, 0.4):
        first.validated(score)
    second = schedule_of(schedule="plateau", plateau_patience=1)
    second.load_state_dict(first.state_dict())
    second.validated(0.4)
    assert second.learning_rate == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": "plateau", "warmup_epochs": 1.0}, "no warm-up"),
        ({"plateau_factor": 1.0}, "between 0 and 1"),
        ({"patience": 0}, "null trains all"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Training(**settings)


def test_weights_draw_a_rare_class_as_often_as_a_common_one():
    weights = torch.tensor([1 / 90] * 90 + [1 / 10] * 10, dtype=torch.float64)
    drawn = Counter(
        index % 100 >= 90
        for epoch in range(20)
        for batch in Order(size=100, batch_size=10, seed=0, weights=weights).epoch(epoch)
        for index in batch
    )
    assert sum(drawn.values()) == 2000
    assert 900 < drawn[True] < 1100  # half of 2000; one standard deviation is 22


def test_weighted_batches_depend_on_seed_and_epoch_and_are_shared_out():
    drawn = {"size": 40, "batch_size": 8, "weights": torch.ones(40)}
    batches = [Order(seed=seed, **drawn).epoch(epoch) for seed, epoch in ((0, 0), (0, 0), (1, 0), (0, 1))]
    assert batches[0] == batches[1]
    assert batches[0] != batches[2]
    assert batches[0] != batches[3]
    halves = [Order(seed=0, rank=rank, world=2, **drawn).epoch(0) for rank in range(2)]
    assert [sorted(one + two) for one, two in zip(*halves, strict=True)] == [sorted(batch) for batch in batches[0]]


@pytest.mark.parametrize(("processes", "parts"), [(1, 1), (2, 1), (1, 3), (2, 3)])
def test_half_of_every_part_of_a_batch_is_labeled_and_comes_first(processes, parts):
    labeled = torch.arange(50) % 5 == 0
    for epoch in range(2):
        orders = [
            Order(size=50, batch_size=12, seed=0, labeled=labeled, rank=rank, world=processes, parts=parts).epoch(epoch)
            for rank in range(processes)
        ]
        assert {len(order) for order in orders} == {4}
        known = [index for order in orders for step in order for index in step if labeled[index % 50]]
        assert len(known) == len(set(known)) == 24
        assert sorted(Counter(index % 50 for index in known).values()) == [2] * 6 + [3] * 4, "whole passes"
        for step in (step for order in orders for step in order):
            for part in torch.tensor(step).tensor_split(parts):
                is_known = labeled[part % 50].tolist()
                assert is_known == [True] * labeled_of(len(part)) + [False] * (len(part) - labeled_of(len(part)))


def test_a_batch_that_cannot_be_shared_out_is_refused():
    with pytest.raises(ValueError, match=r"batch_size 6 is not a multiple of the 2 processes times .*accumulate 2"):
        Order(size=10, batch_size=6, seed=0, world=2, parts=2)
