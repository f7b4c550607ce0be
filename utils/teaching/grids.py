"""Probabilities taken from the grid of the file that holds them to the grid of a store.

First to the voxels of the case's source, linearly between the centers of theirs; a file on that very grid is only
turned. Then to the stored slices, as its image was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.functional import grid_sample

from datasets.slices.resampling import Grid, resampled
from datasets.volumes.checks import AFFINE_TOLERANCE
from datasets.volumes.geometry import iterate_slices, largest_shift, to_slices

AT_ONCE = 1 << 22  # voxels that are sampled together
EDGE = 1e-4  # by which rounding may put a voxel beyond the field of view


def slices_affine(geometry: Mapping[str, Any]) -> np.ndarray:
    """(slice, row, column) of a case's source -> RAS mm, (4, 4); geometry: the content of its geometry.json."""
    theirs, turned = np.asarray(geometry["affine"], np.float64), np.eye(4)
    turned[:3, 3] = theirs[:3, 3]
    for place, (axis, flip) in enumerate(zip(geometry["axes"], geometry["flips"], strict=True)):
        step = theirs[:3, axis]
        turned[:3, place] = -step if flip else step
        if flip:
            turned[:3, 3] += step * (geometry["shape"][axis] - 1)
    return turned


def on_source(values: np.ndarray, affine: np.ndarray, geometry: Mapping[str, Any]) -> np.ndarray:
    """A volume (i, j, k) of a file, whose voxels lie where its affine says, on a case's source: (s, h, w).

    What the file does not reach is 0. Raises ValueError where it reaches nothing of the case.
    """
    shape, axes, flips = tuple(geometry["shape"]), geometry["axes"], geometry["flips"]
    if values.shape == shape and largest_shift(geometry["affine"], affine, shape) <= AFFINE_TOLERANCE * max(shape):
        return to_slices(values, axes, flips)
    return sampled(values, affine, slices_affine(geometry), [shape[axis] for axis in axes])


def sampled(values: np.ndarray, affine: np.ndarray, wanted: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """A volume at the voxels of another grid, float32 of this shape. affine, wanted: voxel -> the same mm.

    Linear between the centers of voxels, the nearest beyond the outermost ones, and 0 beyond the field of view.
    Raises ValueError where the two grids have nothing in common.
    """
    relative = np.linalg.inv(affine) @ wanted
    lengths = np.array(values.shape)
    scale = 2 / lengths
    rows, columns = np.meshgrid(np.arange(shape[1]), np.arange(shape[2]), indexing="ij")
    plane = relative[:3, 1, None, None] * rows + relative[:3, 2, None, None] * columns + relative[:3, 3, None, None]
    source = torch.from_numpy(np.ascontiguousarray(values, np.float32))[None, None]
    out = np.zeros(shape, np.float32)
    step, reached = max(1, AT_ONCE // rows.size), False
    for start in range(0, shape[0], step):
        numbers = np.arange(start, min(start + step, shape[0]))
        places = plane + relative[:3, 0, None, None] * numbers[:, None, None, None]  # (n, 3, h, w)
        places = (places + 0.5) * scale[:, None, None] - 1
        inside = (np.abs(places) <= 1 + EDGE).all(1)
        if not inside.any():
            continue
        reached = True
        grid = torch.from_numpy(np.ascontiguousarray(places.transpose(0, 2, 3, 1)[..., ::-1], np.float32))[None]
        part = grid_sample(source, grid, "bilinear", "border", align_corners=False)[0, 0].numpy()
        out[numbers] = part * inside
    if not reached:
        raise ValueError("lies elsewhere: its affine and that of the case have no place in common")
    return out


def on_store(values: np.ndarray, grid: Grid) -> np.ndarray:
    """A volume (s, h, w) on a source, float32 (S, H, W) on the stored grid."""
    if grid.is_resampled:
        return np.stack(list(resampled(iterate_slices(values), grid)))
    return np.ascontiguousarray(values, np.float32)
