"""Whole cases are scored: every slice, every pixel of it, and nothing of the padding."""

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from datasets.slices.dataset import SliceDataset
from datasets.slices.store import read_slice
from utils.evaluation.inference import case_batches, evaluate
from utils.evaluation.metrics import VolumeDice


class Brighter(nn.Module):
    """Predicts the class where the image is above a value: also in padding, when it is the darkest of all."""

    def __init__(self, sign: float) -> None:
        super().__init__()
        self.sign = sign

    def forward(self, image):
        return torch.cat([torch.zeros_like(image), self.sign * image], 1)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_scores_equal_those_of_the_stored_slices(slice_store, sign, batch_size):
    dataset = SliceDataset(slice_store, "test", task="organ", window=(-200, 300), crop=64)
    fabric = Fabric(accelerator="cpu", devices=1)
    _, rows = evaluate(fabric, Brighter(sign), dataset, [VolumeDice(dataset.class_names)], batch_size=batch_size)
    for row in rows:
        slices = [read_slice(record.path) for record in dataset.records if record.case == row["case"]]
        image, label = (np.stack(part) for part in zip(*slices, strict=True))
        prediction = sign * (image - 50.0) > 0  # the middle of the window is 50 HU
        target = label > 0
        assert row["dice"] == pytest.approx(2 * (prediction & target).sum() / (prediction.sum() + target.sum()))


def test_batches_do_not_mix_cases_and_hold_every_slice_once(slice_store):
    dataset = SliceDataset(slice_store, "train")
    batches = case_batches(dataset, dataset.cases, 4)
    assert sorted(index for batch in batches for index in batch) == list(range(len(dataset)))
    assert all(len({dataset.records[index].case for index in batch}) == 1 for batch in batches)


def test_the_network_keeps_its_mode(slice_store):
    dataset = SliceDataset(slice_store, "val", task="organ")
    network = Brighter(1.0).train()
    evaluate(Fabric(accelerator="cpu", devices=1), network, dataset, [VolumeDice(["kidney"])], batch_size=4)
    assert network.training
