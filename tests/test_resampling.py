"""The grid of a spacing in mm, and slices and labels brought to it."""

import numpy as np
import pytest

from datasets.slices.resampling import Grid, grid_for, needs_millimeters, resampled, resampled_label


def one(image: np.ndarray, *size: int) -> np.ndarray:
    """A slice in another size."""
    return next(resampled([image], Grid((1, *image.shape), (1, *size))))


def test_the_grid_is_that_of_the_millimeters_with_the_edges_kept():
    assert grid_for((100, 512, 400), (5.0, 0.78, 0.8), 1.6, None) == Grid((100, 512, 400), (100, 250, 200))
    assert grid_for((800, 512, 512), (0.5, 1, 1), None, 2.0) == Grid((800, 512, 512), (200, 512, 512), 4)
    assert grid_for((7, 3, 512), (1.0, 0.1, 1), 9.0, 3.2) == Grid((7, 3, 512), (3, 1, 57), 3)
    assert not grid_for((100, 64, 64), (5.0, 1.61, 1.6), 1.6, 3.0).is_resampled


def test_positions_count_from_center_to_center_and_are_held_beyond_the_ends():
    grid = Grid((7, 4, 6), (3, 2, 6), 3)  # slabs 0 to 2, 3 to 5, and 6 alone
    assert grid.positions(0) == pytest.approx([0, 0, 1 / 3, 2 / 3, 1, 1.5, 2])
    assert grid.positions(1) == pytest.approx([0, 0.25, 0.75, 1])
    assert grid.positions(2) == pytest.approx(range(6))


@pytest.mark.parametrize("size", [(32, 32), (50, 37), (150, 131)])
def test_an_image_keeps_its_mean_and_its_edges(size):
    rows, columns = np.mgrid[:64, :64].astype(np.float32) + 0.5
    there = (np.mgrid[: size[0], : size[1]] + 0.5) * 64 / np.array(size)[:, None, None]
    inside = (slice(3, -3), slice(3, -3))
    for places, expected in zip((rows, columns), there, strict=True):
        assert one(places, *size)[inside] == pytest.approx(expected[inside], abs=0.1)  # of a pixel of the source
    noise = np.random.default_rng(0).normal(100, 50, (64, 64)).astype(np.float32)
    assert one(noise, *size).mean() == pytest.approx(noise.mean(), rel=0.01)


def test_what_is_finer_than_a_stored_pixel_is_gone_and_not_folded_into_coarse_stripes():
    stripes = np.tile(np.array([1000, -1000], np.int16), (60, 30))
    assert np.abs(one(stripes, 30, 30)[:, 1:-1]).max() == 0
    assert np.abs(one(stripes, 29, 29)[:, 2:-2]).max() < 100


def test_hounsfield_units_are_rounded_and_other_intensities_are_not():
    stored = one(np.array([[0, 1], [1, 1]], np.int16), 1, 1)
    assert stored.dtype == np.int16 and stored.item() == 1
    assert one(np.array([[0, 1], [1, 1]], np.float32), 1, 1).item() == pytest.approx(0.75)


def test_a_slab_is_the_mean_of_its_slices_and_the_last_one_of_what_is_left():
    slices = [np.full((2, 2), value, np.int16) for value in (0, 10, 20, 30, 70)]
    assert [stored[0, 0] for stored in resampled(slices, Grid((5, 2, 2), (2, 2, 2), 3))] == [10, 50]


def test_a_label_is_the_value_with_the_largest_share_and_background_or_the_lowest_of_equal_ones():
    label = np.array([[1, 1, 0, 2], [1, 0, 0, 2]], np.uint8)
    same = [np.array([[3, 1]], np.uint8), np.array([[1, 2]], np.uint8)]
    assert resampled_label([label], 1, (2, 4)).tolist() == label.tolist()
    assert resampled_label(same, 2, (1, 2)).tolist() == [[1, 1]]
    assert resampled_label(same[:1], 2, (1, 2)).tolist() == [[0, 0]]  # one slice of two, the other without a label


def test_labels_are_resampled_as_the_images_of_them_would_be():
    rows, columns = np.mgrid[:90, :70]
    label = np.where((rows - 40) ** 2 + (columns - 30) ** 2 < 400, 2, 0).astype(np.uint8)
    label[20:40, 40:60] = 5
    shares = np.stack([one((label == value).astype(np.float32), 41, 33) for value in (0, 2, 5)])
    found = resampled_label([label], 1, (41, 33))
    clear = np.sort(shares, axis=0)[-1] - np.sort(shares, axis=0)[-2] > 1e-3
    assert (found == np.array([0, 2, 5])[shares.argmax(0)])[clear].all() and clear.mean() > 0.99
    assert resampled_label([label], 1, (200, 180)).shape == (200, 180)


def test_neighbors_without_a_distance_need_no_millimeters():
    assert not needs_millimeters({"neighbors": 1})
    assert needs_millimeters({"neighbors": 1, "neighbor_mm": 5.0})
