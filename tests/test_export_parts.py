"""The parts of an export: rewritten operations, calibration images, and what goes wrong in a new process."""

import numpy as np
import pytest
import torch
from torch import nn

from datasets.slices.dataset import SliceDataset
from datasets.slices.store import SliceRecord
from datasets.slices.transforms import normalize, pad_center
from utils.exporting import program
from utils.exporting.measurement import time_forms
from utils.exporting.program import FreshProcess, NotExportableError, capture, quiet
from utils.exporting.rewriting import GridMeans, MaxPoolWithChoice, MaxUnpoolByChoice, rewrite
from utils.exporting.samples import draw_images, draw_slices


def test_pooling_by_comparison_is_torchs_pooling_even_where_values_are_equal():
    feature = torch.randint(0, 3, (2, 3, 8, 12)).float()  # most windows hold equal maxima
    pooled, choice = MaxPoolWithChoice()(feature)
    expected, indices = nn.functional.max_pool2d(feature, 2, return_indices=True)
    assert torch.equal(pooled, expected)
    values = torch.randn_like(pooled)
    assert torch.equal(MaxUnpoolByChoice()(values, choice), nn.functional.max_unpool2d(values, indices, 2))


@pytest.mark.parametrize(("size", "shape"), [(6, (8, 8)), (3, (7, 12)), (2, (5, 5)), ((2, 3), (9, 4)), (6, (3, 4))])
def test_means_over_a_grid_are_adaptive_poolings(size, shape):
    feature = torch.randn(2, 3, *shape)
    torch.testing.assert_close(GridMeans(size)(feature), nn.AdaptiveAvgPool2d(size)(feature))


def test_a_rewritten_network_computes_the_same_and_the_network_stays_as_it_was():
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.PReLU(init=-0.3), nn.PReLU(4), nn.AdaptiveAvgPool2d((2, 3)))
    image = torch.randn(2, 1, 9, 11)
    expected = network(image)
    rewritten = rewrite(network)
    torch.testing.assert_close(rewritten(image), expected)
    kinds = [type(module) for module in rewritten]
    assert kinds == [nn.Conv2d, nn.LeakyReLU, nn.PReLU, GridMeans]  # one slope a channel stays
    assert [type(module) for module in network][1] is nn.PReLU and network.training


@pytest.mark.parametrize("output", [1, (1, 1), (None, 2)])
def test_poolings_that_onnx_has_stay(output):
    assert type(rewrite(nn.Sequential(nn.AdaptiveAvgPool2d(output)))[0]) is nn.AdaptiveAvgPool2d


@pytest.mark.parametrize("pool", [nn.MaxPool2d(3, return_indices=True), nn.MaxPool2d(2, 1, return_indices=True)])
def test_windows_that_overlap_or_are_larger_stay(pool):
    rewritten = rewrite(nn.ModuleList([pool, nn.MaxUnpool2d(2)]))
    assert [type(module) for module in rewritten] == [nn.MaxPool2d, nn.MaxUnpool2d]


def records(cases: int, slices: int) -> list[SliceRecord]:
    """The middle half of each case's slices has a label."""
    return [
        SliceRecord(
            f"c{case}", f"c{case}", z, "", "train", (1,) * (slices // 4 <= z < 3 * slices // 4), 0, 1, 0, 1, None
        )
        for case in range(cases)
        for z in range(slices)
    ]


def test_calibration_slices_are_spread_over_cases_and_half_have_a_label():
    pool = records(cases=5, slices=8)
    drawn = draw_slices(pool, 10, np.random.default_rng(0))
    assert sorted(record.case for record in drawn) == sorted([f"c{case}" for case in range(5)] * 2)
    assert sum(bool(record.labels) for record in drawn) == 5
    assert sum(bool(record.labels) for record in draw_slices(records(4, 8), 4, np.random.default_rng(0))) == 2
    assert len({(record.case, record.slice) for record in drawn}) == 10
    assert drawn == draw_slices(pool, 10, np.random.default_rng(0))
    assert drawn != draw_slices(pool, 10, np.random.default_rng(1))


def test_all_slices_are_drawn_once_where_there_are_too_few():
    pool = records(cases=2, slices=8)
    drawn = draw_slices(pool, 99, np.random.default_rng(0))
    assert sorted((r.case, r.slice) for r in drawn) == sorted((r.case, r.slice) for r in pool)


def test_calibration_images_are_whole_slices_as_prediction_sees_them(slice_store):
    train = SliceDataset(slice_store, "train", task="all", crop=32, augment=["flip", "intensity"])
    images = draw_images(train, train.preprocessing, 6)
    assert {tuple(image.shape) for image in images} <= {(1, 64, 64)}  # 40x48 and 44x40, not the crop of 32
    wanted = []
    for record in train.records:
        with np.load(record.path) as content:
            wanted.append(pad_center(normalize(content["image"], (-200, 300), 0, 1), (64, 64), -1.0))
    assert all(any(np.array_equal(image[0], slice_) for slice_ in wanted) for image in images)


def test_forms_are_timed_in_turn():
    calls = []

    class Named(nn.Module):
        def __init__(self, name):
            super().__init__()
            self.name = name

        def forward(self, image):
            calls.append(self.name)
            return image

    milliseconds = time_forms({"a": Named("a"), "b": Named("b")}, torch.zeros(2, 1, 4, 4), channels_last=True)
    assert set(milliseconds) == {"a", "b"} and calls[:6] == list("ababab")


class Branches(nn.Module):
    def forward(self, image):
        return image if image.sum() > 0 else -image


def test_a_network_that_cannot_be_traced_is_one_line():
    with pytest.raises(NotExportableError, match=r"^torch.export: .") as error:
        capture(Branches(), 1, 64)
    assert "\n" not in str(error.value)


def test_a_program_that_does_not_run_elsewhere_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(program, "RUN", "import sys; open(sys.argv[1])")  # fails as torch does, without loading torch
    with pytest.raises(ValueError, match=r"(?s)x\.pt2: does not run in a new process: .*No such file"):
        FreshProcess(tmp_path / "x.pt2", [torch.zeros(1, 1, 64, 64)])


def test_warnings_are_back_after_the_quiet(recwarn):
    import logging
    import warnings

    with quiet():
        warnings.warn("hidden", stacklevel=1)
        assert not logging.getLogger("torch.onnx").isEnabledFor(logging.WARNING)
    assert len(recwarn) == 0
    assert logging.getLogger("torch.onnx").isEnabledFor(logging.WARNING)
