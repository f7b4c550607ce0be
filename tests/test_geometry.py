"""Orientation of slices, and the way back to the source's grid."""

from itertools import permutations, product

import numpy as np
import pytest

from datasets.volumes import geometry
from datasets.volumes.geometry import iterate_slices, orient, restore, to_slices

SHAPE = (4, 5, 6)


def stored(order: tuple[int, int, int], signs: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A volume whose voxels hold their RAS position as 100 * x + 10 * y + z, stored in any axis order and direction."""
    x, y, z = np.meshgrid(*(np.arange(size) for size in SHAPE), indexing="ij")
    volume = 100 * x + 10 * y + z
    flips = tuple(slice(None, None, sign) for sign in signs)
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for axis, world in enumerate(order):
        affine[world, axis] = signs[world] * 1.5
        affine[world, 3] = 0 if signs[world] > 0 else 1.5 * (SHAPE[world] - 1)
    return volume[flips].transpose(order), affine


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("signs", list(product((1, -1), repeat=3)))
def test_slices_look_the_same_however_the_volume_is_stored_and_go_back(order, signs):
    volume, affine = stored(order, signs)
    axes, flips = orient(affine)
    slices = to_slices(volume, axes, flips)
    # slice 0 is the most inferior (z = 0); its first voxel is anterior (y = 4) and right (x = 3): 300 + 40 + 0
    assert slices.shape == (6, 5, 4)
    assert slices[0, 0, 0] == 340
    assert slices[5, 0, 0] == 345  # superior last
    assert slices[0, 4, 0] == 300  # rows run to posterior
    assert slices[0, 0, 3] == 40  # columns run to the patient's left
    place = {"shape": list(volume.shape), "axes": list(axes), "flips": list(flips)}
    assert np.array_equal(restore(np.ascontiguousarray(slices), place), volume)


def test_an_oblique_volume_is_sliced_along_its_most_axial_axis():
    turn = np.deg2rad(30)
    affine = np.eye(4)
    affine[1:3, 1:3] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    assert orient(affine) == ((2, 1, 0), (False, True, True))


@pytest.mark.parametrize(("order", "axes"), [((0, 1, 2), (2, 1, 0)), ((1, 0, 2), (2, 0, 1)), ((0, 2, 1), (2, 1, 0))])
def test_a_chosen_slice_axis_is_obeyed(order, axes):
    _, affine = stored(order, (1, 1, 1))
    assert orient(affine, slice_axis=2)[0] == axes


@pytest.mark.parametrize("affine", [np.diag([1.0, 0, 1, 1]), np.full((4, 4), np.nan)])
def test_an_affine_without_directions_is_refused(affine):
    with pytest.raises(ValueError, match="singular"):
        orient(affine)


def test_restore_refuses_slices_of_another_case():
    with pytest.raises(ValueError, match="every slice of this case"):
        restore(np.zeros((5, 5, 4)), {"shape": [4, 5, 6], "axes": [2, 1, 0], "flips": [False, False, False]})


@pytest.mark.parametrize("axes", list(permutations(range(3))))
def test_slices_are_gathered_whole_whatever_the_memory_order(axes, monkeypatch):
    monkeypatch.setattr(geometry, "BLOCK_BYTES", 20_000)  # 7 slices of 33x41, and no multiple of them
    volume = np.random.default_rng(0).integers(0, 1000, (71, 33, 41)).astype(np.int16)
    slices = volume.transpose(axes)[::-1]
    assert np.array_equal(np.stack([part.copy() for part in iterate_slices(slices)]), slices)
