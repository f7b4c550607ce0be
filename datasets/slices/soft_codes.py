"""The byte that a probability of soft maps is stored as. Needs numpy, not torch."""

import numpy as np

CODES = 256
PLAIN, TAIL = 128.0, 10.0  # codes for each unit of probability, and for each unit of its logit
SPARE = 1e-3  # how far from 0 and 1 what a teacher calls a probability may lie by rounding


def _table() -> np.ndarray:
    """The probability of every code, float32 (256,), rising.

    Code 0 is 0 and code 255 is 1. Between them the codes lie max(128, 10 / (p (1 - p))) to the unit of probability: 1 /
    128 apart in the middle, 0.1 of a logit apart below 0.085 and above 0.915, from 6e-5 to 1 - 6e-5.
    """
    knee = 0.5 + np.sqrt(0.25 - TAIL / PLAIN)  # where p (1 - p) = 10 / 128
    place = np.arange(CODES // 2) + 0.5  # codes above the one that would be 1/2
    beyond = np.log(knee / (1 - knee)) + (place - PLAIN * (knee - 0.5)) / TAIL
    upper = np.where(place <= PLAIN * (knee - 0.5), 0.5 + place / PLAIN, 1 / (1 + np.exp(-beyond)))
    upper[-1] = 1
    return np.concatenate((1 - upper[::-1], upper)).astype(np.float32)


PROBABILITIES = _table()
_LIMITS = (PROBABILITIES[:-1] + PROBABILITIES[1:]) / 2  # above the n-th lies code n + 1


def encode(probability: np.ndarray) -> np.ndarray:
    """The nearest code of each probability, uint8: at most 1/256 off, and the codes of decoded ones are their own.

    Raises ValueError for what is not a probability.
    """
    probability = np.asarray(probability, np.float32)
    if probability.size and not (probability.min() >= -SPARE and probability.max() <= 1 + SPARE):
        raise ValueError(f"values from {probability.min():g} to {probability.max():g} are not probabilities")
    return np.searchsorted(_LIMITS, probability).astype(np.uint8)


def decode(codes: np.ndarray) -> np.ndarray:
    """The probability of each code, float32."""
    return PROBABILITIES[codes]
