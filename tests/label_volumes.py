"""Small label volumes, and their scores."""

import numpy as np
from scipy import ndimage

from utils.evaluation.volumes.scores import LesionRule, Region, score_volumes
from utils.evaluation.volumes.surfaces import surfel_areas

ISOTROPIC = (1.0, 1.0, 1.0)
SPACING = (2.5, 0.8, 0.7)
TUMOR = Region("tumor", (2,), 1.0)


def volume(*boxes, shape=(8, 9, 10), value=1):
    """Zeros with `value` in every box, a box being three slices."""
    labels = np.zeros(shape, np.uint8)
    for box in boxes:
        labels[box] = value
    return labels


def voxels(*positions, shape=(8, 9, 10), value=1):
    labels = np.zeros(shape, np.uint8)
    for position in positions:
        labels[position] = value
    return labels


def random_pair(seed, smooth, shape=(11, 12, 13)):
    """Two random label volumes: rough, or blobs."""
    generator = np.random.default_rng(seed)
    first, noise = generator.random((2, *shape))
    if smooth:
        first, noise = (ndimage.gaussian_filter(part, smooth) for part in (first, noise))
    second = first + 0.7 * (noise - noise.mean())
    return tuple((part > np.quantile(part, 0.7)).astype(np.uint8) for part in (first, second))


def score(prediction, target, spacing=ISOTROPIC, region=TUMOR, rule=None):
    areas = surfel_areas(spacing)
    return score_volumes(
        prediction, target, spacing, float(np.prod(spacing)) / 1000, areas, [region], rule or LesionRule()
    ).rows[0]
