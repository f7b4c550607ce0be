"""Whole cases are scored: every slice, every pixel of it, and nothing of the padding."""

import json

import numpy as np
import pytest
import torch
from conftest import write_store
from forked import forked_group
from lightning_fabric import Fabric
from torch import nn

from datasets.slices.dataset import SliceDataset
from datasets.slices.store import read_slice
from utils.evaluation.inference import case_batches, evaluate, make_metrics
from utils.evaluation.metrics import VolumeDice
from utils.recipe.schema import Training
from utils.training.launch import launch


class Brighter(nn.Module):
    """Predicts the class where the image is above a value: also in padding, when it is the darkest of all."""

    def __init__(self, sign: float) -> None:
        super().__init__()
        self.sign = sign

    def forward(self, image):
        return torch.cat([torch.zeros_like(image), self.sign * image], 1)


class Threshold(nn.Module):
    """Predicts one of three classes by the brightness of a pixel."""

    def forward(self, image):
        return torch.cat([0.1 - image.abs(), image, -image], 1)


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


@pytest.fixture
def mixed(tmp_path):
    """The test split of six cases of 5 noisy slices in two sizes, in turn."""
    random = np.random.default_rng(0)
    cases = {}
    for number in range(6):
        shape = (5, 40, 48) if number % 2 else (5, 44, 40)
        cases[f"{number}"] = (random.integers(-200, 300, shape).astype(np.int16), random.integers(0, 3, shape))
    split = {"train": ["train"], "val": ["val"], "test": list(cases)}
    cases |= {"train": cases["0"], "val": cases["0"]}
    store = write_store(tmp_path / "mixed", cases, "CT", {1: "kidney", 2: "tumor"}, [2], "all", "kits", split)
    return SliceDataset(store, "test", crop=32)


def test_batches_are_full_and_of_one_size_and_hold_every_slice_once(mixed):
    batches = case_batches(mixed, mixed.cases, 4)
    assert sorted(index for batch in batches for index in batch) == list(range(len(mixed)))
    assert sorted(map(len, batches)) == [3, 3, 4, 4, 4, 4, 4, 4]  # 15 slices of each size
    for batch in batches:
        assert len({mixed.sizes[mixed.records[index].case] for index in batch}) == 1
    one_size = [index for batch in batches[:4] for index in batch]
    assert one_size == sorted(one_size)  # the slices of a case one after the other


@pytest.mark.parametrize("processes", [1, 2])
def test_cases_that_share_batches_score_as_each_alone(mixed, tmp_path, processes):
    def score(cases=None):
        fabric = launch(Training(accelerator="cpu", precision="32-true"))
        metrics = make_metrics({"name": "volume_dice"}, mixed.class_names)
        means, rows = evaluate(fabric, Threshold(), mixed, metrics, batch_size=4, cases=cases)
        return fabric.global_rank, {"means": means, "rows": rows, "published": metrics[1].per_case()}

    def note():
        rank, scores = score()
        (tmp_path / f"{rank}.json").write_text(json.dumps(scores))

    assert forked_group(processes, note) == [0] * processes
    alone = [score([case])[1] for case in mixed.cases]
    for rank in range(processes):
        scores = json.loads((tmp_path / f"{rank}.json").read_text())
        for key in ("rows", "published"):
            assert scores[key] == [row for each in alone for row in each[key]]
        assert scores["means"] == score()[1]["means"]


def test_the_network_keeps_its_mode(slice_store):
    dataset = SliceDataset(slice_store, "val", task="organ")
    network = Brighter(1.0).train()
    evaluate(Fabric(accelerator="cpu", devices=1), network, dataset, [VolumeDice(["kidney"])], batch_size=4)
    assert network.training
