"""Networks: shapes, taps, gradients, published sizes, pretrained encoders."""

from functools import cache
from pathlib import Path

import pytest
import torch

from networks import SEGMENTATION
from networks.resnet import ResNetEncoder
from utils.distillation.taps import tap
from utils.evaluation.complexity import complexity

ROOT = Path(__file__).resolve().parents[1]
KEYS = sorted(set(SEGMENTATION) - {"resnet_18"})
U_NETS = ("unet", "unet++")  # encoder1 at full resolution; everywhere else at 1/2

# methods.md 1.3 and 2.1: M parameters and GMACs of 1x384x384 and 2 classes, measured on the authors' code
PUBLISHED = {
    "deeplabv3+": (56.80, 136.2),
    "enet": (0.354, 1.02),
    "erfnet": (2.06, 7.43),
    "espnet": (0.184, 0.62),
    "mobilenetv2": (2.23, 9.57),
    "pspnet": (46.71, 103.6),
    "raunet": (22.14, 13.23),
    "resnet18": (11.18, 5.33),
    "unet": (34.53, 146.9),
    "unet++": (36.63, 309.9),
    "unet_r18": (15.10, 12.24),
    "unet_r50": (86.26, 139.6),
}
# The authors repeat the image three times for these: their stems have 3 input channels.
REPEATED = ("enet", "espnet", "mobilenetv2", "pspnet", "raunet", "resnet18")


@cache
def cost(key: str, in_channels: int) -> tuple[float, float]:
    """M parameters and GMACs at 384x384, 2 classes."""
    with torch.device("meta"):
        network = SEGMENTATION[key](in_channels=in_channels)
    size = complexity(network, in_channels, 384)
    return size.parameters / 1e6, size.macs / 1e9


def images(height: int, width: int, in_channels: int = 1) -> torch.Tensor:
    return torch.randn(2, in_channels, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("key", KEYS)
def test_logits_have_the_image_size_and_every_parameter_gets_a_gradient(key):
    torch.manual_seed(0)
    network = SEGMENTATION[key](in_channels=1, num_classes=3)
    image = images(64, 64)
    clones = {}
    for name, path in network.taps.items():
        network.get_submodule(path).register_forward_hook(
            lambda _module, _inputs, output, name=name: clones.__setitem__(name, output.detach().clone())
        )
    features = tap(network, image, network.taps)

    logits = features["logits"]
    assert isinstance(logits, torch.Tensor)
    assert logits.shape == (2, 3, 64, 64)
    for name, clone in clones.items():
        assert torch.equal(features[name], clone), f"{name} was overwritten after the tap"

    logits.square().mean().backward()
    lost = [name for name, value in network.named_parameters() if value.grad is None]
    assert not lost, "no gradient"
    assert all(torch.isfinite(value.grad).all() for value in network.parameters())


@pytest.mark.parametrize("key", KEYS)
def test_taps_are_where_their_names_say(key):
    with torch.device("meta"):
        network = SEGMENTATION[key](in_channels=1, num_classes=3).eval()
        features = tap(network, torch.empty(2, 1, 64, 96), network.taps)
    assert features["logits"].shape == (2, 3, 64, 96)
    sizes = {name: tuple(feature.shape[-2:]) for name, feature in features.items()}
    encoders = ["encoder1", "encoder2", "encoder3", "encoder4", "bottleneck"]
    assert set(encoders) <= set(network.taps)
    assert [sizes[name] for name in encoders] == sorted((sizes[name] for name in encoders), reverse=True)
    stride = 1 if key in U_NETS else 2
    for level, name in enumerate(encoders[:3]):
        assert sizes[name] == (64 // (stride << level), 96 // (stride << level)), name
    decoders = set(network.taps) - set(encoders)
    assert decoders <= {"decoder1", "decoder2", "decoder3", "decoder4"}
    for name in decoders:
        assert sizes[name] == sizes[name.replace("decoder", "encoder")], name


@pytest.mark.parametrize("key", ["raunet", "unet", "unet++", "unet_mbnv2", "unet_r18", "unet_r50"])
def test_u_shaped_networks_have_four_decoder_taps(key):
    assert {"decoder1", "decoder2", "decoder3", "decoder4"} <= set(SEGMENTATION[key].taps)


# EMKD's low and high features: channels at stride 2 and 8 (methods.md 2.1), and the taps that give them here
@pytest.mark.parametrize(
    ("key", "low", "low_channels", "high", "high_channels"),
    [
        ("raunet", "encoder1", 64, "encoder3", 128),
        ("resnet18", "encoder1", 64, "encoder3", 128),
        ("pspnet", "encoder1", 64, "bottleneck", 2048),
        ("unet++", "encoder2", 128, "encoder4", 512),
        ("enet", "encoder1", 16, "bottleneck", 128),
        ("mobilenetv2", "encoder1", 32, "bottleneck", 1280),
        ("espnet", "encoder1", 16, "bottleneck", 256),
        ("deeplabv3+", "encoder1", 32, "bottleneck", 2048),
    ],
)
def test_features_emkd_distils_can_be_tapped(key, low, low_channels, high, high_channels):
    with torch.device("meta"):
        features = tap(SEGMENTATION[key]().eval(), torch.empty(1, 1, 384, 384), [low, high])
    assert features[low].shape == (1, low_channels, 192, 192)
    assert features[high].shape == (1, high_channels, 48, 48)


@pytest.mark.parametrize("key", PUBLISHED)
def test_size_is_the_published_one(key):
    parameters, macs = cost(key, 3 if key in REPEATED else 1)
    expected_parameters, expected_macs = PUBLISHED[key]
    if key == "deeplabv3+":
        expected_parameters -= 2.049  # the zoo carries Xception's unused 1000-class layer: 2048 * 1000 + 1000
    if key == "enet":
        # the published forward forgets bottleneck3_5: 2 1x1 convolutions 128 <-> 32 and one 3x3 of 32, at 48x48
        expected_macs += (2 * 128 * 32 + 9 * 32 * 32) * 48 * 48 / 1e9
    assert parameters == pytest.approx(expected_parameters, rel=0.005)
    assert macs == pytest.approx(expected_macs, rel=0.01)


@pytest.mark.parametrize("key", PUBLISHED)
def test_one_channel_costs_at_most_the_published_size(key):
    parameters, macs = cost(key, 1)
    # 4 %: ENet's restored bottleneck. Below: resnet18's stem without the two repeated channels is 4.3 % of its MACs.
    assert 0.96 * PUBLISHED[key][0] < parameters < 1.02 * PUBLISHED[key][0]
    assert 0.95 * PUBLISHED[key][1] < macs < 1.04 * PUBLISHED[key][1]


def test_hlfd_spelling_is_the_same_network():
    assert SEGMENTATION["resnet_18"] is SEGMENTATION["resnet18"]


@pytest.mark.parametrize(("output_stride", "side"), [(32, 2), (16, 4), (8, 8)])
def test_output_stride_changes_the_feature_size_and_no_parameter(output_stride, side):
    with torch.device("meta"):
        network = SEGMENTATION["resnet18"](output_stride=output_stride).eval()
        features = tap(network, torch.empty(1, 1, 64, 64), ["bottleneck"])
        reference = SEGMENTATION["resnet18"]().state_dict()
    assert features["bottleneck"].shape[-2:] == (side, side)
    shapes = {name: value.shape for name, value in network.state_dict().items()}
    assert shapes == {name: value.shape for name, value in reference.items()}


@pytest.mark.parametrize("depth", [18, 50])
@pytest.mark.parametrize("output_stride", [16, 8])
def test_dilation_gives_the_strided_features_on_a_finer_grid(depth, output_stride):
    torch.manual_seed(0)
    strided = ResNetEncoder(depth).eval()
    dilated = ResNetEncoder(depth, output_stride=output_stride).eval()
    dilated.load_state_dict(strided.state_dict())
    step = 32 // output_stride
    with torch.no_grad():
        coarse, fine = strided(images(64, 64))[-1], dilated(images(64, 64))[-1]
    torch.testing.assert_close(fine[..., ::step, ::step], coarse)


def test_raunet_returns_logits_not_log_probabilities():
    torch.manual_seed(0)
    logits = SEGMENTATION["raunet"](num_classes=3)(images(64, 64))
    assert not torch.allclose(logits.exp().sum(dim=1), torch.ones(2, 64, 64), atol=0.1)


def test_small_widths_make_a_student():
    with torch.device("meta"):
        student = complexity(SEGMENTATION["unet"](widths=(8, 16, 32, 64, 128)), 1, 384)
    assert student.parameters < cost("unet", 1)[0] * 1e6 / 50  # 8 times thinner: about 64 times smaller


@pytest.mark.parametrize("key", ["unet", "unet++"])
def test_wrong_widths_are_refused(key):
    with pytest.raises(ValueError, match="five positive"):
        SEGMENTATION[key](widths=(16, 32, 64))


@pytest.mark.parametrize("key", ["enet", "erfnet"])
def test_too_many_channels_for_the_first_block_are_refused(key):
    with pytest.raises(ValueError, match="in_channels must be 1 to 15"):
        SEGMENTATION[key](in_channels=16)


def test_a_network_traces_into_one_graph():
    network = SEGMENTATION["enet"]().eval()
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(images(64, 64)), network(images(64, 64)))
