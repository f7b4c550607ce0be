"""Networks: shapes, taps, gradients, published sizes, pretrained encoders."""

from dataclasses import dataclass
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

# EMKD's low and high features: channels and stride (methods.md 2.1), and the taps that give them here
EMKD = {
    "raunet": (("encoder1", 64, 2), ("encoder3", 128, 8)),
    "resnet18": (("encoder1", 64, 2), ("encoder3", 128, 8)),
    "pspnet": (("encoder1", 64, 2), ("bottleneck", 2048, 8)),
    "unet++": (("encoder2", 128, 2), ("encoder4", 512, 8)),
    "enet": (("encoder1", 16, 2), ("bottleneck", 128, 8)),
    "mobilenetv2": (("encoder1", 32, 2), ("bottleneck", 1280, 8)),
    "espnet": (("encoder1", 16, 2), ("bottleneck", 256, 8)),
    "deeplabv3+": (("encoder1", 32, 2), ("bottleneck", 2048, 8)),
}


@cache
def cost(key: str, in_channels: int) -> tuple[float, float]:
    """M parameters and GMACs at 384x384, 2 classes."""
    with torch.device("meta"):
        network = SEGMENTATION[key](in_channels=in_channels)
    size = complexity(network, in_channels, 384)
    return size.parameters / 1e6, size.macs / 1e9


def images(height: int, width: int, in_channels: int = 1) -> torch.Tensor:
    return torch.randn(2, in_channels, height, width, generator=torch.Generator().manual_seed(0))


@dataclass(frozen=True)
class Step:
    """What is seen of a step of training on two images of 32x64. `overwritten`: taps that changed after the tap."""

    key: str
    shapes: dict[str, tuple[int, ...]]
    overwritten: list[str]
    without_gradient: list[str]
    not_finite: list[str]

    @property
    def sizes(self) -> dict[str, tuple[int, ...]]:
        return {name: shape[-2:] for name, shape in self.shapes.items()}


@pytest.fixture(scope="module", params=KEYS)
def step(request) -> Step:
    torch.manual_seed(0)
    network = SEGMENTATION[request.param](in_channels=1, num_classes=3)
    clones = {}
    for name, path in network.taps.items():
        network.get_submodule(path).register_forward_hook(
            lambda _module, _inputs, output, name=name: clones.__setitem__(name, output.detach().clone())
        )
    features = tap(network, images(32, 64), network.taps)
    features["logits"].square().mean().backward()
    gradients = {name: value.grad for name, value in network.named_parameters()}
    return Step(
        request.param,
        {name: tuple(feature.shape) for name, feature in features.items()},
        [name for name, clone in clones.items() if not torch.equal(features[name], clone)],
        [name for name, gradient in gradients.items() if gradient is None],
        [name for name, gradient in gradients.items() if gradient is not None and not gradient.sum().isfinite()],
    )


def test_logits_have_the_image_size_and_every_parameter_gets_a_gradient(step):
    assert step.shapes["logits"] == (2, 3, 32, 64)
    assert (step.overwritten, step.without_gradient, step.not_finite) == ([], [], [])


def test_taps_are_where_their_names_say(step):
    sizes = step.sizes
    encoders = ["encoder1", "encoder2", "encoder3", "encoder4", "bottleneck"]
    assert set(encoders) <= set(sizes)
    assert [sizes[name] for name in encoders] == sorted((sizes[name] for name in encoders), reverse=True)
    stride = 1 if step.key in U_NETS else 2
    for level, name in enumerate(encoders[:3]):
        assert sizes[name] == (32 // (stride << level), 64 // (stride << level)), name
    decoders = set(sizes) - {*encoders, "logits"}
    assert decoders <= {"decoder1", "decoder2", "decoder3", "decoder4"}
    for name in decoders:
        assert sizes[name] == sizes[name.replace("decoder", "encoder")], name


def test_features_emkd_distils_can_be_tapped(step):
    for name, channels, stride in EMKD.get(step.key, ()):
        assert step.shapes[name] == (2, channels, 32 // stride, 64 // stride)


@pytest.mark.parametrize("key", ["raunet", "unet", "unet++", "unet_mbnv2", "unet_r18", "unet_r50"])
def test_u_shaped_networks_have_four_decoder_taps(key):
    assert {"decoder1", "decoder2", "decoder3", "decoder4"} <= set(SEGMENTATION[key].taps)


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


@pytest.mark.parametrize("key", REPEATED)
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
    for stage, blocks in ((network.stage1, 1), (network.stage2, 3), (network.stage3, 0), (network.stage4, 0)):
        del stage[blocks:]  # a block of each kind stays
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(images(32, 32)), network(images(32, 32)))
