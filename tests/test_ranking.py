"""RankSEG-RMA: the worked formula, every subset by brute force, classes that overlap."""

from itertools import product

import numpy as np
import pytest

from utils.evaluation.metrics.ranking import best_set, rank_labels


def binary(*probabilities: float) -> np.ndarray:
    """(2, 1, n): background and one class."""
    foreground = np.array([probabilities], np.float32)
    return np.stack([1 - foreground, foreground])


def expected_dice(probability: np.ndarray, prediction: np.ndarray) -> float:
    """Over all 2^n targets of independent voxels."""
    value = 0.0
    for target in product([False, True], repeat=len(probability)):
        chance = np.prod(np.where(target, probability, 1 - probability))
        size = prediction.sum() + sum(target)
        value += chance * (2 * (prediction & np.array(target)).sum() / size if size else 0.0)
    return value


def test_the_formula_by_hand():
    # sum of p = 1.8; n = 1: 1.2 / 3.8 = 0.316, 2: 2 / 4.8 = 0.417, 3: 2.8 / 5.8 = 0.483, 4: 3.6 / 6.8 = 0.529
    kept, score, size = best_set(np.array([0.4, 0.6, 0.4, 0.4]))
    assert kept.all()
    assert score == pytest.approx(3.6 / 6.8)
    assert size == pytest.approx(4 + 1.8)
    # sum of p = 1.9; n = 2: 3.4 / 4.9 = 0.694, n = 3: 3.8 / 5.9 = 0.644
    kept, score, _ = best_set(np.array([0.9, 0.2, 0.8]))
    assert kept.tolist() == [True, False, True]
    assert score == pytest.approx(3.4 / 4.9)


@pytest.mark.parametrize("seed", range(6))
def test_no_subset_is_expected_to_score_much_more(seed):
    generator = np.random.default_rng(seed)
    probability = generator.beta(0.7, 1.3, 8)
    kept, _, _ = best_set(probability)
    subsets = [np.array(subset) for subset in product([False, True], repeat=8)]
    best = max(expected_dice(probability, subset) for subset in subsets)
    found = expected_dice(probability, kept)
    assert best - found < 0.02  # an approximation, at its worst for so few
    assert found >= expected_dice(probability, probability > 0.5) - 0.005
    # the best of its formula's values, over all lengths
    ordered = np.sort(probability)[::-1]
    values = [2 * ordered[:n].sum() / (n + ordered.sum() + 1) for n in range(1, 9)]
    assert kept.sum() == 1 + np.argmax(values)


def test_the_score_is_what_many_voxels_are_expected_to_have():
    generator = np.random.default_rng(0)
    probability = generator.beta(0.7, 1.3, 300)
    kept, score, _ = best_set(probability)
    targets = generator.random((4000, 300)) < probability
    dice = 2 * (targets & kept).sum(1) / (targets.sum(1) + kept.sum())
    assert score == pytest.approx(dice.mean(), abs=0.003)  # the standard error is 0.0005


def test_a_class_the_network_is_unsure_of_is_cut_below_one_half():
    assert rank_labels(binary(0.6, 0.4, 0.4, 0.4)).tolist() == [[1, 1, 1, 1]]
    # sum of p = 2.57; n = 2: 3.94 / 5.57 = 0.707, n = 3: 4.54 / 6.57 = 0.691
    assert rank_labels(binary(0.99, 0.98, 0.3, 0.3)).tolist() == [[1, 1, 0, 0]]


def test_equal_voxels_are_kept_or_left_together():
    # sum of p = 1 + 4/5; n = 1: 2 / 3.8 = 0.526; n = 2: 2.4 / 4.8 = 0.5, ...: the first alone
    kept, _, _ = best_set(np.array([0.2, 1.0, 0.2, 0.2, 0.2]))
    assert kept.tolist() == [False, True, False, False, False]
    # sum of p = 1.5; n = 1: 1 / 3.5 = 0.286, n = 2: 2 / 4.5 = 0.444, n = 3: 3 / 5.5 = 0.545
    kept, score, _ = best_set(np.full(3, 0.5))
    assert kept.all()
    assert score == pytest.approx(3 / 5.5)


def test_a_class_without_a_probable_voxel_is_left_out_unless_asked():
    unsure = binary(0.45, 0.45, 0.1)
    assert rank_labels(unsure).max() == 0
    assert rank_labels(unsure, pruned=0.0).tolist() == [[1, 1, 0]]
    assert rank_labels(binary(0.0, 0.0), pruned=0.0).max() == 0


def test_a_voxel_of_two_classes_goes_to_the_one_that_loses_more():
    # Class 1, an organ: 0.9 nine times and 0.55; sum 8.65, all ten kept at 17.3 / 19.65 = 0.880.
    # Class 2, a tumor: 0.7 and, in the organ's last voxel, 0.4; sum 1.1, both kept at 2.2 / 4.1 = 0.537.
    # The last voxel is worth (1.1 - 0.880) / 18.65 = 0.012 to the organ, (0.8 - 0.537) / 3.1 = 0.085 to the tumor.
    organ = np.array([0.9] * 9 + [0.55, 0.0])
    tumor = np.array([0.0] * 9 + [0.4, 0.7])
    labels = rank_labels(np.stack([1 - organ - tumor, organ, tumor]).clip(0, 1))
    assert labels.tolist() == [1] * 9 + [2, 2]
    other = rank_labels(np.stack([1 - organ - tumor, tumor, organ]).clip(0, 1))
    assert other.tolist() == [2] * 9 + [1, 1]
    assert labels.dtype == np.uint8


def test_a_volume_is_ranked_as_a_whole_in_any_precision():
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(3, 4, 5, 6))
    probabilities = np.exp(logits) / np.exp(logits).sum(0)
    whole = rank_labels(probabilities)
    assert whole.shape == (4, 5, 6)
    assert np.array_equal(whole.reshape(20, 6), rank_labels(probabilities.reshape(3, 20, 6)))
    assert not np.array_equal(whole, np.stack([rank_labels(part) for part in probabilities.swapaxes(0, 1)]))
    half = probabilities.astype(np.float16)
    assert np.array_equal(rank_labels(half), rank_labels(half.astype(np.float64)))


@pytest.mark.parametrize(
    ("probabilities", "message"),
    [
        (np.ones((1, 2, 2)), "first axis"),
        (np.array([[[2.0]], [[-1.0]]]), "softmax"),
        (np.full((2, 1, 1), np.nan), "softmax"),
    ],
)
def test_what_are_no_probabilities_is_refused(probabilities, message):
    with pytest.raises(ValueError, match=message):
        rank_labels(probabilities)
