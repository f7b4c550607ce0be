"""Surface Dice, 95th percentile Hausdorff distance and average surface distance of two label volumes.

The surfaces and their areas are those of MONAI, and so of Google DeepMind's surface-distance that KiTS scores with
(Nikolov et al., arXiv 1809.04430). MONAI's functions build several float32 volumes of the joint bounding box, 130 bytes
a voxel: 27 GB for an 800x512x512 case with one stray voxel in a corner. Here a volume is walked through in slabs, and
only its surface is kept.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

SLAB_VOXELS = 1 << 22


@dataclass(frozen=True)
class Surface:
    """Where a class ends, as (N, 3) int32 positions in the volume.

    edges: its voxels with one of their 6 neighbors outside it. cells: the corners between voxels that not all 8 voxels
    around agree on, voxel (z, y, x) being the last of the 8; codes: (M,) uint8, which of the 8 are inside.
    """

    edges: NDArray[np.int32]
    cells: NDArray[np.int32]
    codes: NDArray[np.uint8]


@cache
def surfel_areas(spacing: tuple[float, float, float]) -> NDArray[np.float64]:
    """Area in mm2 of the surface within a cell, by code (256,), for a spacing in mm in the array's axis order."""
    from monai.metrics.utils import get_code_to_measure_table  # seconds: workers are given the table instead

    return get_code_to_measure_table(spacing, device="cpu")[0].double().numpy()


def surface(mask: NDArray[np.bool_]) -> Surface:
    """The surface of a mask (D, H, W); beyond the volume all is outside."""
    edges, cells, codes = [], [], []
    for start, block in _slabs(mask):
        core = block[1:-1, 1:-1, 1:-1]
        whole = core.copy()
        for axis in range(3):
            for shift in (slice(None, -2), slice(2, None)):
                whole &= block[tuple(shift if other == axis else slice(1, -1) for other in range(3))]
        edges.append(_positions(core != whole, start))
        code = np.zeros([size - 1 for size in block.shape], np.uint8)[:-1]
        for bit, (z, y, x) in enumerate(np.ndindex(2, 2, 2)):
            depth, height, width = code.shape
            code |= block[z : z + depth, y : y + height, x : x + width] << (7 - bit)
        cut = (code != 0) & (code != 255)
        cells.append(_positions(cut, start))
        codes.append(code[cut])
    if not edges:
        return Surface(np.empty((0, 3), np.int32), np.empty((0, 3), np.int32), np.empty(0, np.uint8))
    return Surface(np.concatenate(edges), np.concatenate(cells), np.concatenate(codes))


def _slabs(mask: NDArray[np.bool_]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """First plane, and the planes of a slab as 0 and 1 with one voxel more on every side; slabs without a 1 left out.

    The planes go one beyond the last: there lie the cells above the volume.
    """
    depth, height, width = mask.shape
    step = max(1, SLAB_VOXELS // (height * width))
    for start in range(0, depth + 1, step):
        planes = min(step, depth + 1 - start)
        below, above = max(start - 1, 0), min(start + planes + 1, depth)
        part = mask[below:above]
        if not part.any():
            continue
        block = np.zeros((planes + 2, height + 2, width + 2), np.uint8)
        block[below - start + 1 : above - start + 1, 1:-1, 1:-1] = part
        yield start, block


def _positions(where: NDArray[np.bool_], start: int) -> NDArray[np.int32]:
    points = np.stack(np.nonzero(where), 1).astype(np.int32)
    points[:, 0] += start
    return points


def surface_dice(
    prediction: Surface,
    target: Surface,
    spacing: Sequence[float],
    areas: NDArray[np.float64],
    tolerance_mm: float,
) -> float:
    """Share of both surfaces that lies within `tolerance_mm` of the other one; neither may be empty.

    spacing: mm in the array's axis order; areas: `surfel_areas(spacing)`.
    """
    bound = tolerance_mm * 1.001 + 1e-6  # the search rounds: what it finds is measured again
    good = total = 0.0
    for one, other in ((prediction, target), (target, prediction)):
        area = areas[one.codes]
        total += area.sum()
        good += area[_nearest(one.cells, other.cells, spacing, bound) <= tolerance_mm].sum()
    return float(good / total)


def surface_distances(prediction: Surface, target: Surface, spacing: Sequence[float]) -> tuple[float, float]:
    """HD95 and ASSD in mm between the edge voxels of two surfaces; neither may be empty.

    As MONAI has them: HD95 is the larger of the 95th percentiles of both directions, ASSD the mean of the distances of
    both together; every edge voxel weighs the same (DeepMind's weigh by area, so theirs differ).
    """
    ours = _nearest(prediction.edges, target.edges, spacing)
    theirs = _nearest(target.edges, prediction.edges, spacing)
    hd95 = max(np.percentile(ours, 95), np.percentile(theirs, 95))
    return float(hd95), float(np.concatenate([ours, theirs]).mean())


def _nearest(
    points: NDArray[np.int32], others: NDArray[np.int32], spacing: Sequence[float], bound: float = np.inf
) -> NDArray[np.float64]:
    """Distance in mm from each point to the nearest of the others; inf where that is farther than `bound`.

    The tree says which one is nearest. The distance is taken from whole steps of the grid, as a distance transform
    does: the difference of two rounded positions may lie beyond a tolerance that it equals.
    """
    from scipy.spatial import KDTree

    scale = np.asarray(spacing, np.float64)
    tree = KDTree(others * scale, leafsize=32, compact_nodes=False, balanced_tree=False)
    _, index = tree.query(points * scale, distance_upper_bound=bound)
    found = index < len(others)
    distance = np.full(len(points), np.inf)
    distance[found] = np.sqrt((((points[found] - others[index[found]]) * scale) ** 2).sum(1))
    return distance
