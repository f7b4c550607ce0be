"""Dice of RankSEG's labels stands beside the Dice of argmax labels and is no part of it."""

import pytest
import torch

from utils.evaluation.metrics import VolumeDice
from utils.evaluation.metrics.ranked_dice import RankedDice


def logits_of(probabilities):
    """Logits (1, 2, 1, N) of a foreground of these probabilities."""
    foreground = torch.tensor(probabilities).reshape(1, 1, 1, -1)
    return torch.cat([1 - foreground, foreground], 1).log()


def test_a_hard_class_is_cut_below_a_half():
    # best n of (0.6, 0.4, 0.4, 0.4): 2 * 0.6 / (1 + 1.8 + 1) = 0.32, all four 2 * 1.8 / (4 + 1.8 + 1) = 0.53
    logits, target = logits_of([0.6, 0.4, 0.4, 0.4]), torch.ones(1, 1, 1, 4, dtype=torch.int64)
    argmax, ranked = VolumeDice(["x"]), RankedDice(["x"])
    for metric in (argmax, ranked):
        metric.update(logits, target, "case")
    assert argmax.compute()["dice"] == pytest.approx(0.4)  # 2 * 1 / (1 + 4)
    assert ranked.compute() == {"ranked/dice": 1.0, "ranked/dice/x": 1.0}


def test_slices_are_cut_one_by_one_and_counted_as_a_case():
    first = torch.cat([logits_of([0.6, 0.4, 0.4, 0.4]), logits_of([0.99, 0.98, 0.3, 0.3])])
    target = torch.ones(2, 1, 1, 4, dtype=torch.int64)
    ranked = RankedDice(["x"])
    ranked.update(first, target, ["case", "case"])
    assert ranked.compute()["ranked/dice"] == pytest.approx(2 * 6 / (6 + 8))


def test_counts_of_processes_are_merged():
    target = torch.ones(1, 1, 1, 4, dtype=torch.int64)
    one, two = RankedDice(["x"]), RankedDice(["x"])
    one.update(logits_of([0.9] * 4), target, "a")
    two.update(logits_of([0.1] * 4), target, "b")
    one.merge(two.state())
    assert one.compute()["ranked/dice"] == pytest.approx(0.5)  # 1 and 0
