"""Taps: one forward, named features, errors instead of silence."""

import pytest
import torch
from torch import nn

from networks import NETWORKS
from utils.distillation.taps import tap


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return NETWORKS["unet"](widths=(2, 3, 4, 5, 6)).eval()


IMAGE = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))


def test_tap_returns_named_features_and_logits(network):
    features = tap(network, IMAGE, ["encoder2", "bottleneck", "logits"])
    assert {name: tuple(feature.shape) for name, feature in features.items()} == {
        "encoder2": (2, 3, 16, 16),
        "bottleneck": (2, 6, 2, 2),
        "logits": (2, 2, 32, 32),
    }
    assert torch.equal(features["logits"], network(IMAGE))


def test_tap_leaves_no_hook_behind(network):
    tap(network, IMAGE, ["encoder2"])
    assert not any(module._forward_hooks for module in network.modules())


def test_an_unknown_tap_names_the_nearest(network):
    with pytest.raises(ValueError, match="did you mean 'encoder4'"):
        tap(network, IMAGE, ["encoder44"])


def test_a_foreign_network_is_tapped_by_submodule_path():
    foreign = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Sequential(nn.ReLU(), nn.Conv2d(3, 2, 1)))
    assert tap(foreign, IMAGE, ["1.0"])["1.0"].shape == (2, 3, 32, 32)


def test_a_tap_that_the_forward_does_not_reach_is_an_error():
    class Lazy(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1)

        def forward(self, image):
            return self.used(image)

    with pytest.raises(ValueError, match="did not reach unused"):
        tap(Lazy(), IMAGE, ["unused"])


def test_gradients_flow_through_a_tapped_feature():
    network = NETWORKS["unet"](widths=(2, 2, 2, 2, 2))
    tap(network, IMAGE, ["encoder1"])["encoder1"].sum().backward()
    assert network.encoder1.state_dict()
    assert all(parameter.grad is not None for parameter in network.encoder1.parameters())


def test_tapping_is_correct_under_compile():
    foreign = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Sequential(nn.ReLU(), nn.Conv2d(3, 2, 1)), nn.Sigmoid())

    def features(image):
        return tap(foreign, image, ["0", "1"])

    compiled = torch.compile(features, backend="aot_eager")(IMAGE)
    for name, feature in features(IMAGE).items():
        torch.testing.assert_close(compiled[name], feature)


def test_tapping_is_correct_under_autocast(network):
    with torch.autocast("cpu", torch.bfloat16):
        features = tap(network, IMAGE, ["encoder1"])
    assert features["logits"].dtype == torch.bfloat16
    torch.testing.assert_close(
        features["encoder1"].float(), tap(network, IMAGE, ["encoder1"])["encoder1"], atol=0.1, rtol=0.1
    )
