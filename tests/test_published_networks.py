"""Weights that the published code saved answer here as they did there."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from published_resnet18 import resnet18_as_published
from torch import Tensor

from networks import NETWORKS
from networks.published import candidates, convert, misfit, recognize
from networks.published_names import LAYOUTS
from utils.distillation.taps import tap

SHARED = Path(__file__).resolve().parents[2] / "shared" / "reference" / "published_networks"
# The published networks by their files there, and whether ours has to be asked for their behavior.
AS_THEY_ARE = {
    "emkd_raunet": "raunet",
    "emkd_unet": "unet",
    "emkd_erfnet": "erfnet",
    "emkd_espnet": "espnet",
    "hdkd_teacher_model": "teacher_model",
    "hdkd_student_model": "student_model",
    "hdkd_HDKD": "HDKD",
}
ASKED_FOR = {
    "emkd_resnet18": "resnet18",
    "emkd_mobilenetv2": "mobilenetv2",
    "emkd_pspnet": "pspnet",
    "emkd_unetpp": "unet++",
    "emkd_deeplabv3p": "deeplabv3+",
    "emkd_enet": "enet",
    "hlfd_unet_r18": "unet_r18",
    "hlfd_unet_r50": "unet_r50",
}
OTHER_SHAPES = ("deeplabv3+", "enet")  # published weights do not fit what we build by default


def build(section: dict, weights: dict[str, Tensor]) -> torch.nn.Module:
    """A network with its weights; nothing is initialized first."""
    with torch.device("meta"):
        network = NETWORKS[section["name"]](**{key: value for key, value in section.items() if key != "name"})
    network.load_state_dict(weights, assign=True)
    return network.eval()


def difference(name: str, network: torch.nn.Module, image: Tensor, published: Tensor) -> float:
    """The largest difference of the outputs, relative to the largest published value."""
    with torch.no_grad():
        output = network(image)
    output = output.log_softmax(dim=1) if name == "raunet" else output  # as its published forward returns it
    return float((output - published).abs().max() / published.abs().max())


@pytest.mark.parametrize(("file", "name"), (AS_THEY_ARE | ASKED_FOR).items())
def test_published_weights_answer_as_they_did(file, name):
    if not SHARED.is_dir():
        pytest.skip("no published networks at ../shared/reference/published_networks")
    spec = importlib.util.spec_from_file_location("fill", SHARED / "fill.py")
    rule = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rule)
    listed = json.loads((SHARED / "keys" / f"{file}.json").read_text())
    weights = {f"net.{key}": value for key, value in rule.fill(listed["keys"], listed["gain"]).items()}
    published = torch.from_numpy(np.load(SHARED / "outputs.npz")[file])
    image = rule.image(*listed["input"])
    (found,) = recognize(weights, candidates(weights))
    section = found.network
    assert (section["name"], found.prefix) == (name, "net.")
    assert section.get("as_published", False) == (file in ASKED_FOR or name == "espnet")
    apart = difference(name, build(section, found.weights), image, published)
    line = f"{name:14} {'as published' if section.get('as_published') else 'as it is':13} {apart:.1e}"
    assert apart < 1e-5, line  # what is asked is 1e-4
    if file in ASKED_FOR and name not in OTHER_SHAPES:
        by_default = difference(name, build(section | {"as_published": False}, found.weights), image, published)
        line += f"   by default {by_default:.1e}"
        assert by_default > 1e-2, line
    print(line)


def test_a_one_channel_network_answers_as_three_repeated_channels():
    weights, three = resnet18_as_published()
    image = torch.randn(1, 1, 64, 64)
    found = convert(weights, "resnet18")
    assert found.network["in_channels"] == 1 and found.weights["encoder.conv1.weight"].shape[1] == 1
    with torch.no_grad():
        expected = three(image.expand(-1, 3, -1, -1))
    assert difference("resnet18", build(found.network, found.weights), image, expected) < 1e-5


def unet_names() -> list[str]:
    """The names of EMKD's U-Net in the order of its definition."""
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    block = [f"conv.{n}.{each}" for n in (0, 1, 3, 4) for each in (norm if n in (1, 4) else norm[:2])]
    up = [f"up.{n}.{each}" for n in (1, 2) for each in (norm if n == 2 else norm[:2])]
    names = [f"Conv{level}.{each}" for level in range(1, 6) for each in block]
    for level in (5, 4, 3, 2):
        names += [*(f"Up{level}.{each}" for each in up), *(f"Up_conv{level}.{each}" for each in block)]
    return [*names, "Conv.weight", "Conv.bias"]


def test_u_net_is_mapped_in_the_order_of_both_definitions():
    with torch.device("meta"):
        ours = NETWORKS["unet"](num_classes=4).state_dict()
    theirs = dict(zip(unet_names(), ours.values(), strict=True))
    found = convert(theirs, "unet")
    assert found.network == {"name": "unet", "num_classes": 4, "in_channels": 1} and not found.unused
    assert all(found.weights[key] is value for key, value in ours.items() if value.is_floating_point())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda weights: weights.pop("layer2.0.bn1.bias"), "lacks 1 of the 122 tensors of resnet18"),
        (lambda weights: weights.update({"layer2.0.se.weight": torch.zeros(1)}), "layer2.0.se.weight"),
        (
            lambda weights: weights.update({"bn1.bias": torch.zeros(32)}),
            r"bn1.bias has shape \(32,\), .* it has \(64,\)",
        ),
        (lambda weights: weights.pop("last_conv.weight"), "shows the number of classes"),
    ],
)
def test_what_does_not_fit_is_named(change, said):
    weights, _ = resnet18_as_published()
    change(weights)
    with pytest.raises(ValueError, match=said):
        convert(weights, "resnet18")
    assert not recognize(weights, candidates(weights)) and misfit(weights, "resnet18", "")


def test_files_older_than_batch_counters_are_read():
    weights, _ = resnet18_as_published()
    old = {key: value for key, value in weights.items() if not key.endswith("num_batches_tracked")}
    assert len(convert(old, "resnet18").weights) == 122


def test_every_layout_is_one_of_our_networks_and_knows_its_head():
    for name, layout in LAYOUTS.items():
        asked = {"as_published": True} if layout.as_published else {}
        with torch.device("meta"):
            network = NETWORKS[name](num_classes=5, **asked)
        assert network.state_dict()[layout.head].shape[layout.axis] == 5, name


@pytest.mark.parametrize("name", ["deeplabv3+", "enet", "espnet", "unet_r18"])
def test_the_published_behavior_has_the_same_taps(name):
    shapes = []
    with torch.device("meta"):
        for asked in (True, False):
            network = NETWORKS[name](as_published=asked).eval()
            features = tap(network, torch.empty(2, 1, 64, 64), network.taps)
            shapes.append({name: feature.shape for name, feature in features.items()})
    assert shapes[0] == shapes[1]
