"""Which generated images look like real ones, and which are copies of them, by distances between embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

LEAST_REAL = 20
FLOOR = 0.1  # of the root mean square of all standard deviations: what a nearly constant feature is divided by
SAME = 0.01  # of the real images' median distance: what another batch or rounding makes of one image

Kind = Literal["kept", "unlike", "copy", "held-out copy"]


@dataclass(frozen=True)
class Verdict:
    """The verdict on one generated image.

    Args:
        kind: `kept`; `unlike` (too far from the real images); `copy` of a real one, or of one that is held out.
        distance: Mean distance to its nearest real images.
        nearest: Number of the nearest real one.
        nearest_distance: Distance to that one.
        nearest_held_out: Number of the nearest held-out one; None where none are given.
        held_out_distance: Distance to that one.
    """

    kind: Kind
    distance: float
    nearest: int
    nearest_distance: float
    nearest_held_out: int | None = None
    held_out_distance: float | None = None


@dataclass(frozen=True)
class Limits:
    """Nearer than `low` to one real image is a copy; further than `high` from the nearest ones is unlike."""

    low: float
    high: float


def judge(
    generated: NDArray[np.floating],
    real: NDArray[np.floating],
    held_out: NDArray[np.floating],
    quantiles: Sequence[float] = (0.01, 0.95),
    neighbors: int = 5,
) -> tuple[list[Verdict], Limits]:
    """Compare generated images with the real ones of their class, and these with each other.

    The distance is Euclidean between features standardized by mean and standard deviation of the real images. Cosine
    was tried too: on DermaMNIST it separated the classes less well. A real image's own distance leaves itself
    out. Limits are quantiles of the real images' own distances: the high one of the mean
    distance to `neighbors` nearest, the low one of the distance to the nearest. Copies take precedence.

    generated (G, D), real (R, D), held_out (H, D), the embeddings; H may be 0.
    Raises ValueError for less than 20 real images, and for quantiles or neighbors out of range.
    """
    low, high = quantiles
    if len(real) < LEAST_REAL:
        raise ValueError(f"{len(real)} real images: quantiles of their distances need at least {LEAST_REAL}")
    if not 0 <= low < high <= 1:
        raise ValueError(f"quantiles {low:g} {high:g}: give two from 0 to 1, the smaller one first")
    if not 1 <= neighbors < len(real):
        raise ValueError(f"neighbors {neighbors}: give 1 to {len(real) - 1} of {len(real)} real images")
    real, generated, held_out = standardized(real, (real, generated, held_out))
    own = _nearest(real, real, neighbors + 1)[0][:, 1:]  # the nearest one is the image itself
    limits = Limits(
        low=max(float(np.quantile(own[:, 0], low)), SAME * float(np.median(own[:, 0]))),
        high=float(np.quantile(own.mean(1), high)),
    )
    found = _nearest(generated, real, neighbors)
    held = _nearest(generated, held_out, 1) if len(held_out) else None
    verdicts = []
    for number, (distances, numbers) in enumerate(zip(*found, strict=True)):
        mean, first = float(distances.mean()), float(distances[0])
        beyond, other = (None, None) if held is None else (float(held[0][number, 0]), int(held[1][number, 0]))
        kind: Kind = "unlike" if mean > limits.high else "kept"
        if first <= limits.low:
            kind = "copy"
        if beyond is not None and beyond <= limits.low:
            kind = "held-out copy"
        verdicts.append(Verdict(kind, mean, int(numbers[0]), first, other, beyond))
    return verdicts, limits


def standardized(reference: NDArray[np.floating], parts: Sequence[NDArray[np.floating]]) -> list[NDArray[np.float64]]:
    """Each of `parts` (N, D) less the mean of `reference` (R, D) and divided by its standard deviation.

    The deviation is at least a tenth of the root mean square of all, or a feature that hardly varies would decide.
    """
    reference = reference.astype(np.float64)
    mean, deviation = reference.mean(0), reference.std(0)
    deviation = np.maximum(deviation, FLOOR * np.sqrt(np.mean(deviation**2)))
    if not deviation.all():
        raise ValueError("all real images have the same embedding: are they copies of one, or is the network trained?")
    return [(part - mean) / deviation for part in parts]


def _nearest(
    points: NDArray[np.float64], others: NDArray[np.float64], neighbors: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Distances (N, k) from `points` (N, D) to the nearest of `others` (R, D), ascending, and their numbers (N, k)."""
    from sklearn.neighbors import NearestNeighbors

    return NearestNeighbors(n_neighbors=neighbors, algorithm="brute").fit(others).kneighbors(points)
