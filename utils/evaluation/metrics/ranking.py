"""Labels from probabilities by what they are expected to score: RankSEG's reciprocal moment approximation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def rank_labels(probabilities: NDArray[np.floating], pruned: float = 0.5) -> NDArray[np.uint8]:
    """Labels that maximize the expected Dice of every class, of an image or a volume as a whole.

    RankSEG-RMA (Dai and Li, JMLR 2023; Wang and Dai, NeurIPS 2025). Of one class, with its probabilities in falling
    order, the first n voxels have about the expected Dice
        2 (p_1 + ... + p_n) / (n + sum of all p + 1)
    and the n with the most is kept: all voxels above half of that Dice. A class that the network finds hard is so cut
    below 0.5, where a threshold loses it. Probabilities are taken as calibrated and voxels as independent.

    A class whose highest probability is not above `pruned` is left out, as in the authors' package; the formula itself,
    which gives 0 to an empty prediction even where there is nothing, would always predict some voxel. Voxels that
    several classes keep go to the class that loses most without them, 2 p - Dice over n + sum of p. The package takes
    Dice and n of the voxels that one class alone keeps; here they are those of all that the class keeps: with three
    classes 0.26 percent of the voxels of random probabilities come out otherwise, all of them claimed by two classes.
    In the package the background is a class of its own; here it is what no class keeps.

    Args:
        probabilities: (K, ...) in 0..1, the background first: (K, H, W) or (K, Z, Y, X).
        pruned: 0.5 as argmax of two classes would do; 0 leaves out nothing.

    Returns labels (...) from 0 to K - 1. Raises ValueError for probabilities outside 0..1 or no foreground class.
    """
    if not 2 <= len(probabilities) <= 256:
        raise ValueError(f"probabilities {probabilities.shape}: the first axis must be background and 1 to 255 classes")
    if not (probabilities.min() >= 0 and probabilities.max() <= 1):
        raise ValueError("probabilities are not all between 0 and 1: give a softmax, not logits")
    labels = np.zeros(probabilities.shape[1:], np.uint8)
    gains = np.full(probabilities.shape[1:], -np.inf, np.float32)
    for number, probability in enumerate(probabilities[1:], start=1):
        if probability.max() <= pruned or probability.max() == 0:
            continue
        kept, score, size = best_set(probability)
        gain = (2 * probability.astype(np.float32) - score) / size
        mine = kept & (gain > gains)
        labels[mine] = number
        gains[mine] = gain[mine]
    return labels


def best_set(probability: NDArray[np.floating]) -> tuple[NDArray[np.bool_], float, float]:
    """The voxels of a class (...) to keep, their expected Dice, and their number + the sum of all p, which is not 0.

    Only voxels above half of a Dice that is reached are sorted: no other is ever kept. Equal voxels stay together: one
    more of them raises the score as long as it is below twice their probability, and never beyond.
    """
    flat = probability.reshape(-1)
    total, peak = float(flat.sum(dtype=np.float64)), float(flat.max())
    likely = flat[flat > 0.5]
    reached = max(2 * peak / (2 + total), 2 * float(likely.sum(dtype=np.float64)) / (len(likely) + total + 1))
    ordered = np.sort(flat[flat >= min(reached / 2, peak)].astype(np.float64))[::-1]
    scores = 2 * np.cumsum(ordered) / (np.arange(1, len(ordered) + 1) + total + 1)
    best = int(np.argmax(scores))
    return (probability >= ordered[best]), float(scores[best]), best + 1 + total
