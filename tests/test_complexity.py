"""What a network costs, counted by hand, and the script that prints it."""

import runpy
import sys

import pytest
import torch
from torch import nn

from utils.evaluation.complexity import complexity, latency
from utils.recipe.schema import ROOT


def test_complexity_counts_by_hand_and_leaves_the_network_alone():
    network = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ConvTranspose2d(2, 3, 2, 2)).train()
    network[1].eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    size = complexity(network, in_channels=1, size=(4, 6))
    # parameters: 2*1*9+2 + 2+2 + 2*3*4+3 = 51; MACs: 2*1*9 * 24 pixels out + 2*3*4 * 24 pixels in = 432 + 576
    assert (size.parameters, size.macs) == (51, 1008)
    assert network.training
    assert not network[1].training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert network[0].weight.device.type == "cpu"


def test_latency_is_positive_and_restores_the_mode():
    network = nn.Conv2d(1, 2, 3).train()
    assert latency(network, (2, 1, 32, 32), repeats=3, warmup=1) > 0
    assert network.training


@pytest.fixture
def opcounter(monkeypatch, capsys):
    """Runs the script with arguments; the words of each line it prints."""

    def run(*arguments: str) -> list[list[str]]:
        monkeypatch.setattr(sys, "argv", ["OpCounter.py", *arguments])
        monkeypatch.setattr(sys, "path", list(sys.path))
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(ROOT / "scripts" / "OpCounter.py"), run_name="__main__")
        assert end.value.code == 0
        return [line.split() for line in capsys.readouterr().out.splitlines()]

    return run


def test_opcounter_prints_the_table(opcounter):
    image, header, row = opcounter("--network", "enet")
    assert image == ["1", "image", "1x384x384"]
    assert header == ["network", "M", "parameters", "GMACs"]
    assert row == ["enet", "0.354", "1.06"]


def test_opcounter_prints_classifiers_apart_at_their_own_size(opcounter):
    lines = opcounter("--network", "swinv2", "enet", "vit_s16")
    assert [line[0] for line in lines if line] == ["1", "network", "enet", "1", "network", "swinv2", "vit_s16"]
    assert lines[-2:] == [["swinv2", "3x256x256", "48.961", "11.55"], ["vit_s16", "3x224x224", "21.666", "4.60"]]


def test_opcounter_gives_every_classifier_the_size_asked_for(opcounter):
    image, _, resnet, vit = opcounter("--network", "resnet", "vit_s16", "--size", "64", "--in_channels", "1")
    assert image == ["1", "image", "1x64x64"]
    assert (resnet[0], vit[0]) == ("resnet", "vit_s16")
