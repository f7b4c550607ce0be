"""Connected components of a label volume; voxels touch by face, edge or corner (26 neighbors).

scipy labels them in 32 bits; scikit-image does so in 64, which is twice the memory of an 800x512x512 case.
"""

import numpy as np
from numpy.typing import NDArray

CHUNK_VOXELS = 1 << 22
FEW = 8
TOUCHING = np.ones((3, 3, 3), bool)


def components(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """The number of each voxel's component, 0 outside the mask, and how many voxels components 1, 2, ... have."""
    from scipy import ndimage

    numbers, count = ndimage.label(mask, TOUCHING, np.int32)
    return numbers, count_voxels(numbers, count + 1)[1:]


def count_voxels(array: np.ndarray, length: int) -> NDArray[np.int64]:
    """How often each of 0 .. length - 1 occurs in a contiguous volume.

    The volume is counted in parts, as bincount makes a 64-bit copy of what it counts. A few numbers are counted faster
    by comparing with each.
    """
    flat = array.reshape(-1)
    counts = np.zeros(length, np.int64)
    for start in range(0, len(flat), CHUNK_VOXELS):
        part = flat[start : start + CHUNK_VOXELS]
        if length <= FEW:
            counts += [np.count_nonzero(part == number) for number in range(length)]
        else:
            counts += np.bincount(part, minlength=length)
    return counts
