"""Axial slices by anatomy: which axis of a volume is sliced, which is turned round, and how to put slices back.

Slices run inferior -> superior, rows anterior -> posterior, columns patient right -> patient left, whatever order the
file is stored in.
"""

from collections.abc import Iterator

import numpy as np

BLOCK_BYTES = 15 << 20  # little enough for the C library to keep the memory for the next block
PADDING = 8


def spacing_of(affine: np.ndarray) -> tuple[float, float, float]:
    """Voxel size in mm along the axes of the file: the lengths of the affine's columns, to six digits.

    A form stored as float32 holds no more: 1 mm would come out as 1.00000003, farther than a tolerance of 1 mm.
    """
    with np.errstate(all="ignore"):
        lengths = np.linalg.norm(np.asarray(affine, np.float64)[:3, :3], axis=0)
    return tuple(float(f"{length:.6g}") for length in lengths)


def voxel_ml(affine: np.ndarray) -> float:
    """Volume of a voxel in ml, by the determinant of the affine, which is right for a sheared one as well."""
    return abs(float(np.linalg.det(np.asarray(affine, np.float64)[:3, :3]))) / 1000


def largest_shift(affine: np.ndarray, other: np.ndarray, shape: tuple[int, ...]) -> float:
    """The largest distance between the same corner of two grids of one shape, in voxels of the first."""
    corners = np.array(np.meshgrid(*[(0, size - 1) for size in shape], [1])).reshape(4, -1)
    with np.errstate(all="ignore"):
        return float(np.abs((np.linalg.inv(affine) @ other @ corners - corners)[:3]).max())


def is_turned(affine: np.ndarray, other: np.ndarray, shape: tuple[int, ...]) -> bool:
    """Whether two grids of one shape are of the same places, their axes in another order or direction."""
    with np.errstate(all="ignore"):
        relative = np.linalg.inv(affine) @ other
    turn, center = np.nan_to_num(np.rint(relative[:3, :3])), (np.array(shape) - 1) / 2
    return (
        np.array_equal(turn @ turn.T, np.eye(3))
        and not np.array_equal(turn, np.eye(3))
        and np.allclose(relative[:3, :3], turn, atol=1e-3)
        and np.allclose(relative[:3, :3] @ center + relative[:3, 3], center, atol=0.1)
    )


def orient(affine: np.ndarray, slice_axis: int | None = None) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
    """Find, for (slices, rows, columns), the axis of the file each one is, and whether it must be flipped.

    affine: (4, 4), voxel -> RAS mm. slice_axis: the file's axis to slice along instead of the most axial one (a
    short-axis stack is oblique). Raises ValueError for an affine that is singular or not finite.
    """
    directions = np.asarray(affine, np.float64)[:3, :3]
    with np.errstate(all="ignore"):
        closest = np.full((3, 2), np.nan)
        if np.isfinite(directions).all() and 1e-9 <= abs(np.linalg.det(directions)) < np.inf:
            from nibabel.orientations import io_orientation  # a training reads no volume

            closest = io_orientation(affine)
    if np.isnan(closest).any():  # also where two axes point the same way, as far as float64 can tell
        raise ValueError(f"affine {directions.tolist()} is singular: write the volume again with its orientation")
    if slice_axis is None:
        axes = tuple(int(np.flatnonzero(closest[:, 0] == world)[0]) for world in (2, 1, 0))
    else:
        cosines = np.abs(directions / np.linalg.norm(directions, axis=0))
        first, second = (axis for axis in range(3) if axis != slice_axis)
        swapped = cosines[0, second] + cosines[1, first] > cosines[0, first] + cosines[1, second]
        axes = (slice_axis, first, second) if swapped else (slice_axis, second, first)
    # RAS grows towards superior, anterior and right; slices, rows and columns grow superior, posterior and left
    flips = (directions[2, axes[0]] < 0, directions[1, axes[1]] > 0, directions[0, axes[2]] > 0)
    return axes, tuple(bool(flip) for flip in flips)


def to_slices(volume: np.ndarray, axes: tuple[int, ...], flips: tuple[bool, ...]) -> np.ndarray:
    """View an array on the file's grid (file axis order) as (slices, rows, columns); nothing is copied."""
    return volume.transpose(axes)[tuple(slice(None, None, -1) if flip else slice(None) for flip in flips)]


def restore(slices: np.ndarray, geometry: dict) -> np.ndarray:
    """Put (slices, rows, columns) back on the source's own grid, voxel for voxel; the inverse of `to_slices`.

    geometry: the content of a case's geometry.json. Raises ValueError when the shape is not that of the case.
    """
    axes = geometry["axes"]
    expected = tuple(geometry["shape"][axis] for axis in axes)
    if slices.shape != expected:
        raise ValueError(f"slices of shape {slices.shape} for a case of {expected}: pass every slice of this case")
    flips = tuple(slice(None, None, -1) if flip else slice(None) for flip in geometry["flips"])
    return np.ascontiguousarray(slices[flips].transpose(np.argsort(axes)))


def iterate_slices(slices: np.ndarray) -> Iterator[np.ndarray]:
    """Yield every slice of a (slices, rows, columns) view as a contiguous array.

    Where the slice axis is the fastest in memory (KiTS), slices are gathered in blocks: one at a time would touch every
    cache line of the volume once per slice. A row of all slices is first copied as it lies there, then turned. Padding
    keeps the pieces of it from lying a power of two apart, where they push each other out of the cache.
    """
    count, rows, columns = slices.shape
    if abs(slices.strides[0]) > min(abs(stride) for stride in slices.strides[1:]):
        for index in range(count):
            yield np.ascontiguousarray(slices[index])
        return
    step = max(1, BLOCK_BYTES // (rows * columns * slices.itemsize))
    for start in range(0, count, step):
        part = slices[start : start + step]
        block = np.empty(part.shape, slices.dtype)
        lying = np.empty((columns, len(part) + PADDING), slices.dtype)[:, : len(part)]
        for row in range(rows):
            lying[:] = part[:, row].T
            block[:, row] = lying.T
        yield from block
