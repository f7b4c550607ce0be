"""What a plan says about memory: of a batch, and of the slices that a run holds."""

import sys
from dataclasses import replace

import pytest
from plan_stores import GIGABYTE, add_geometry, linear

from datasets.slices.dataset import SliceDataset
from utils.planning import memory
from utils.planning.choices import PixelGrid
from utils.planning.dry_step import Measured, Trial, measure
from utils.planning.sources import of_store


def trial(batch: int) -> Trial:
    small = {"name": "unet", "widths": [4, 4, 4, 4, 4]}
    terms = [{"name": "soft_target", "student": "logits", "teacher": "logits", "weight": 1.0}]
    loss = {"name": "dice_ce"}
    return Trial(small, small, terms, loss, 1, ["kidney", "tumor"], batch, side=32, size=[64, 32])


def test_a_small_batch_gives_the_memory_and_the_time_of_every_batch():
    """Of 240 x 240 pixels three images are tried; 1 + 0.1 a batch GB make 2.6 GB of 16, beside 0.4 GB of data."""
    found = memory.forecast(replace(trial(16), side=240), 4 * GIGABYTE // 10, linear)
    assert sorted(found.tried) == [3] and found.batch == 16
    assert found.peak(16) == 3 * GIGABYTE and found.peak(8) == pytest.approx(2.2e9)
    assert found.minutes(16, slices=160, val_slices=0, epochs=6) == pytest.approx(6 * 10 * 1.6 / 60)


def test_no_more_images_are_tried_than_wanted_and_no_fewer_than_two():
    assert list(memory.forecast(trial(8), 0, linear).tried) == [8]
    assert list(memory.forecast(replace(trial(8), side=512), 0, linear).tried) == [2]


def on_gpu(one: Trial) -> Measured:
    return replace(linear(one), device="cuda")


def test_on_a_gpu_the_batch_itself_is_tried():
    """Nine tenths of 10 GB hold 1.2 GB and 0.1 an image of up to 78, so that of 128 images 64 are tried."""
    assert sorted(memory.forecast(replace(trial(16), side=320), 0, on_gpu).tried) == [2, 16]
    found = memory.forecast(replace(trial(128), side=320), GIGABYTE // 5, on_gpu)
    assert sorted(found.tried) == [2, 64] and found.batch == 64


def test_a_batch_that_does_not_fit_is_halved():
    def small(one: Trial) -> Measured:
        return replace(linear(one), limit=2 * GIGABYTE)

    assert memory.forecast(trial(16), 0, small).batch == 8
    with pytest.raises(ValueError, match=r"2 images of 32 x 32 take 9.2 GB, 2.0 GB may be used here"):
        memory.forecast(trial(16), 8 * GIGABYTE, small)


def test_a_step_that_fails_on_a_gpu_bounds_the_batch():
    def limited(one: Trial) -> Measured:
        if one.batch > 10:
            raise ValueError("out of memory")
        return on_gpu(one)

    found = memory.forecast(replace(trial(32), side=320), 0, limited)
    assert found.batch == 8 and sorted(found.tried) == [2, 8]


def test_a_step_is_tried_as_a_run_takes_it():
    found = measure(trial(2))
    assert found.device == "cpu" and 10**8 < found.held < found.peak < found.limit * 4 and found.seconds > 0


def test_a_step_that_cannot_be_tried_ends_in_one_line(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ValueError, match="a step of unet with 4 images cannot be tried: it ended with status 1"):
        memory.in_own_process(trial(4))


@pytest.mark.parametrize(
    ("thin", "neighbors", "distance"), [(0.0, 0, None), (0.0, 1, None), (0.0, 2, 6.0), (1.0, 1, None)]
)
def test_the_neighbors_of_samples_stay_in_memory(slice_store, thin, neighbors, distance):
    """A run keeps the very bytes that were planned, with slices that are neighbors only."""
    add_geometry(slice_store, 1.0)
    for file in slice_store.glob("*/case.json"):  # what add_geometry writes there is less than a run reads
        file.unlink()
    chosen = {"neighbors": neighbors, "neighbor_mm": distance, "crop": 64}
    held = 0
    for split, share in (("train", thin), ("val", 1.0)):
        dataset = SliceDataset(slice_store, split, thin_background=share, **chosen)
        held += dataset._stored.nbytes
    found = of_store(slice_store, None)
    assert memory.data_bytes(found, PixelGrid(), thin, neighbors, distance) == held
