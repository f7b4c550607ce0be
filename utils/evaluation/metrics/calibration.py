"""How far the probability of an answer is from how often it is right."""

import numpy as np
from numpy.typing import NDArray


def calibration_error(probability: NDArray[np.floating], target: NDArray[np.integer], bins: int = 15) -> float:
    """Expected calibration error: mean over images of |accuracy - mean top probability| of their bin.

    Naeini et al., AAAI 2015; Guo et al., ICML 2017. probability (N, K), target (N,). The bins of the top probability
    are of equal width and closed on the right: (0, 1/bins], (1/bins, 2/bins], ...
    """
    top = probability.max(1)
    right = probability.argmax(1) == target
    members = np.ceil(top * bins).clip(1, bins).astype(np.int64) - 1
    # |accuracy - mean| times the bin's share of the images is |sum of (right - top)| / N
    gaps = np.bincount(members, weights=right - top, minlength=bins)
    return float(np.abs(gaps).sum() / len(target))
