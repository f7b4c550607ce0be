"""What prediction leaves out, batch normalization and slices that show nothing, changes no answer."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from datasets.volumes.reading import Statistics
from networks import NETWORKS
from utils.prediction.folding import fold
from utils.prediction.on_device import OnDevice
from utils.prediction.predictor import Clock, Predictor
from utils.runs.models import Model
from utils.training.device import Device

CPU = Device(torch.device("cpu"), "32-true")
PREPROCESSING = {"class_names": ["kidney", "tumor"], "modality": "CT", "window": [-200.0, 300.0], "pad_value": -1.0}
PREPROCESSING |= {"crop": 64}


def lively(network: nn.Module) -> nn.Module:
    """With statistics as after a training, so that normalization does something."""
    torch.manual_seed(0)
    for module in network.eval().modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 2)
            for value in (module.running_mean, module.weight.data, module.bias.data):
                value.add_(0.1 * torch.randn_like(value))
    return network


@pytest.mark.parametrize(
    ("name", "left"), [("unet", 0), ("resnet18", 0), ("enet", 3), ("espnet", 13), ("squeezenet", 0)]
)
def test_a_folded_network_answers_the_same(name, left):
    narrow = {"widths": [4, 4, 8, 8, 8]} if name == "unet" else {}
    network = lively(NETWORKS[name](in_channels=1, num_classes=3, **narrow))
    image = torch.randn(1, 1, 64, 64)
    folded = fold(deepcopy(network), image)
    assert sum(isinstance(module, nn.BatchNorm2d) for module in folded.modules()) == left
    with torch.inference_mode():
        for other in (image, torch.randn(2, 1, 96, 32) if name != "squeezenet" else image):
            wanted, found = network(other), folded(other)
            assert float((wanted - found).abs().max() / wanted.abs().max()) < 1e-5


class ReadTwice(nn.Module):
    """Reads what its convolution returns before normalization as well: that must not be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.normalization = nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3)

    def forward(self, image: Tensor) -> Tensor:
        feature = self.convolution(image)
        return self.normalization(feature) + feature


class Shared(ReadTwice):
    """Runs its convolution twice."""

    def forward(self, image: Tensor) -> Tensor:
        return self.normalization(self.convolution(image)) + self.convolution(image + 1)


@pytest.mark.parametrize("network", [ReadTwice, Shared])
def test_what_cannot_be_folded_stays(network):
    network, image = lively(network()), torch.randn(1, 1, 32, 32)
    wanted = deepcopy(network)
    assert torch.equal(fold(network, image)(image), wanted(image))
    assert isinstance(network.normalization, nn.BatchNorm2d)


class Places(nn.Module):
    """Sees padding and place: air is not the same class everywhere. Counts the slices that it is asked about."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution, self.asked = nn.Conv2d(1, 3, 41, padding=20), 0

    def forward(self, image: Tensor) -> Tensor:
        self.asked += len(image)
        return self.convolution(image)


def label(slices: np.ndarray, **how) -> tuple[np.ndarray, np.ndarray, int]:
    network = Places().eval()
    predictor = Predictor([OnDevice(Model(None, "", network, PREPROCESSING, {}), CPU)], 4, **how)
    network.asked = 0  # it was folded
    labels, shares = np.empty(slices.shape, np.uint8), np.empty((2, *slices.shape), np.float16)
    predictor.label(slices, (1, 1, 1), Statistics(0, 1, 0, 1), labels, list(shares), Clock(), lambda count: None)
    return labels, shares, network.asked


@pytest.mark.parametrize("flip", [False, True])
def test_slices_that_show_nothing_are_asked_about_once(flip, monkeypatch):
    slices = np.random.default_rng(0).integers(-300, 400, (9, 40, 48), np.int16)
    slices[[0, 1, 4, 5, 8]] = -1000
    slices[1, 3, 3] = -250  # below the window: air as well
    slices[4, 39, 47] = 0  # a voxel in a corner is something
    assert len(np.unique(label(slices[:1])[0])) > 1  # the answer to air is not one class
    found = label(slices, flip=flip)
    monkeypatch.setattr("utils.prediction.blank._kind", lambda image: None)
    wanted = label(slices, flip=flip)
    assert np.array_equal(found[0], wanted[0])
    assert np.allclose(found[1], wanted[1], atol=1e-3)
    assert (found[2], wanted[2]) == ((9 - 3) * (1 + 3 * flip), 9 * (1 + 3 * flip))


def test_another_size_of_air_is_asked_about_again():
    air = np.full((2, 40, 48), -1000, np.int16)
    network = Places().eval()
    predictor = Predictor([OnDevice(Model(None, "", network, PREPROCESSING, {}), CPU)], 4)
    for slices in (air, air[:, :30]):  # padded, both are of 64x64
        labels = np.empty(slices.shape, np.uint8)
        predictor.label(slices, (1, 1, 1), Statistics(0, 1, 0, 1), labels, [], Clock(), lambda count: None)
        assert np.array_equal(labels[0], labels[1])
