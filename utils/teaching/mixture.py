"""Weights of several teachers whose probabilities are averaged, chosen on labeled pixels."""

from __future__ import annotations

import numpy as np

STEPS = 200
PIXELS = 4000  # of each class of a case: small structures decide as much as large ones


def mixture_weights(likelihoods: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """The weights, at least 0 with sum 1, of the mixture that makes the true classes most likely.

    Expectation maximization, whose optimum is the only one: the log likelihood of a mixture is concave in its weights.

    likelihoods: (N, M), what each of M teachers gives to the true class of each pixel. shares: (N,) how much a pixel
    counts. Returns (M,) float64.
    """
    likelihoods = np.maximum(np.asarray(likelihoods, np.float64), 1e-6)
    shares = np.asarray(shares, np.float64) / np.sum(shares)
    weights = np.full(likelihoods.shape[1], 1 / likelihoods.shape[1])
    for _ in range(STEPS):
        owned = likelihoods * weights
        weights = shares @ (owned / owned.sum(1, keepdims=True))
    return weights


def drawn_pixels(target: np.ndarray, num_classes: int, seed: int) -> list[np.ndarray]:
    """For each class, background first, the flat places of up to `PIXELS` of its pixels in a target (S, H, W)."""
    random = np.random.default_rng(seed)
    places = [np.flatnonzero(target == number) for number in range(num_classes)]
    return [each if len(each) <= PIXELS else np.sort(random.choice(each, PIXELS, replace=False)) for each in places]
