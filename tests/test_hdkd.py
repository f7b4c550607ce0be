"""HDKD's networks: published shapes and sizes, two heads averaged, blocks worked by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from networks.hdkd import HDKD, HDKDStudent, HDKDTeacher
from networks.hdkd_blocks import CBAM, MBCSA, PatchEmbedding, TransformerBlock
from utils.distillation.taps import tap
from utils.evaluation.complexity import complexity

NETWORKS = {"teacher": HDKDTeacher, "student": HDKDStudent, "HDKD": HDKD}


def images(size: int = 32) -> torch.Tensor:
    return torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(0))


# methods.md 3.2, measured on the authors' code at 224x224 and 7 classes: M parameters, GMACs
@pytest.mark.parametrize(
    ("name", "parameters", "macs"), [("teacher", 3.949, 5.70), ("student", 3.725, 2.02), ("HDKD", 3.727, 2.02)]
)
def test_size_is_the_published_one(name, parameters, macs):
    with torch.device("meta"):
        cost = complexity(NETWORKS[name](3, 7), 3, 224)
    assert cost.parameters / 1e6 == pytest.approx(parameters, abs=0.0005)
    assert cost.macs / 1e9 == pytest.approx(macs, rel=0.005)


def mbcsa_macs(channels: int, out_channels: int, side: int, strided: bool) -> int:
    width = 4 * channels
    gates = 2 * 2 * width * (width // 16) + 2 * 49 * side**2
    shortcut = channels * out_channels if strided else 0
    return (channels * width + 9 * width + width * out_channels + shortcut) * side**2 + gates


def test_macs_are_those_counted_by_hand_with_attention():
    stages = 27 * 64 * 112**2 + 9 * 64 * 64 * 112**2
    stages += mbcsa_macs(64, 96, 56, True) + mbcsa_macs(96, 96, 56, False)
    stages += mbcsa_macs(96, 192, 28, True) + 2 * mbcsa_macs(192, 192, 28, False)
    # 196 patches of 4 * 192; then 198 tokens of 256: 4 + 2 * 4 projections, queries with keys and with values
    transformer = 196 * 768 * 256 + 3 * (198 * 12 * 256**2 + 2 * 198**2 * 256)
    with torch.device("meta"):
        macs = complexity(HDKD(3, 7), 3, 224).macs
    assert macs == stages + transformer + 2 * 256 * 7


def test_teacher_and_student_features_have_the_published_shapes():
    expected = {"stage1": (1, 64, 112, 112), "stage2": (1, 96, 56, 56), "stage3": (1, 192, 28, 28)}
    for network in NETWORKS.values():
        with torch.device("meta"):
            features = tap(network(3, 7).eval(), torch.empty(1, 3, 224, 224), [*expected, "encoder3", "embedding"])
        assert {name: tuple(features[name].shape) for name in expected} == expected
        assert features["encoder3"].shape == features["stage3"].shape
        assert features["logits"].shape == (1, 7)
        assert features["embedding"].shape == (1, 128 if network is HDKDTeacher else 256)


@pytest.mark.parametrize(("size", "tokens"), [(16, 3), (32, 6), (64, 18), (224, 198)])
def test_the_number_of_tokens_follows_the_image_size(size, tokens):
    with torch.device("meta"):
        features = tap(HDKD(image_size=size).eval(), torch.empty(2, 3, size, size), ["tokens"])
    assert features["tokens"].shape == (2, tokens, 256)  # two learned ones and (size / 16)^2


@pytest.mark.parametrize("size", [0, 28, 100])
@pytest.mark.parametrize("network", [HDKD, HDKDStudent])
def test_an_image_size_that_patches_do_not_tile_is_refused(network, size):
    with pytest.raises(ValueError, match=f"positive multiple of 16 .*, not {size}"):
        network(image_size=size)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"blocks": (2, 2)}, "blocks must be three"),
        ({"channels": (8, 8, 0)}, "channels must be"),
        ({"dim": 100}, "heads 8"),
    ],
)
def test_wrong_widths_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        HDKD(**arguments)


def test_logits_are_the_mean_of_the_two_heads():
    torch.manual_seed(0)
    network = HDKD(num_classes=4, image_size=32).eval()
    with torch.no_grad():
        features = tap(network, images(), network.taps)
    heads = features["class_logits"], features["distillation_logits"]
    assert not torch.allclose(*heads)
    torch.testing.assert_close(features["logits"], (heads[0] + heads[1]) / 2)
    assert torch.equal(features["embedding"], features["tokens"][:, 0])
    assert torch.equal(features["distillation_embedding"], features["tokens"][:, 1])
    assert torch.equal(heads[1], network.distillation_head(features["distillation_embedding"]))


def test_each_head_learns_from_its_own_loss():
    network = HDKD(num_classes=4, image_size=32)
    features = tap(network, images(), ["class_logits", "distillation_logits"])
    F.cross_entropy(features["class_logits"], torch.tensor([0, 1, 2])).backward(retain_graph=True)
    assert network.class_head.weight.grad is not None
    assert network.distillation_head.weight.grad is None
    features["distillation_logits"].square().mean().backward()
    assert all(value.grad is not None for value in network.parameters())
    assert (network.transformer.tokens.grad != 0).any(dim=2).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_one_step_moves_every_batch_norm_once(name):
    size = {} if name == "teacher" else {"image_size": 32}
    network = NETWORKS[name](**size)
    tap(network, images(), ["stage1", "stage2", "stage3"])["logits"].sum().backward()
    counters = [value.item() for key, value in network.state_dict().items() if key.endswith("num_batches_tracked")]
    assert set(counters) == {1}
    assert all(value.grad is not None and torch.isfinite(value.grad).all() for value in network.parameters())


def test_cbam_without_weights_halves_twice_and_adds_the_input():
    block = CBAM(16)
    for value in block.parameters():
        nn.init.zeros_(value)
    feature = images(4)[:, :1].expand(-1, 16, -1, -1)
    torch.testing.assert_close(block(feature), 1.25 * feature)  # sigmoid(0) * sigmoid(0) * x + x


def test_cbam_gates_channels_by_mean_and_maximum_then_places():
    block = CBAM(2, ratio=1)
    block.channel[0].weight.data = torch.eye(2)[..., None, None]
    block.channel[1] = nn.Identity()
    block.channel[2].weight.data = torch.eye(2)[..., None, None]
    block.spatial.weight.data.zero_()
    block.spatial.weight.data[0, 1, 3, 3] = 1  # the maximum over channels of this place
    feature = torch.tensor([[1.0, 3.0], [-2.0, 0.0]]).view(1, 2, 1, 2)
    # channel gates sigmoid(mean + maximum): sigmoid(2 + 3), sigmoid(-1 + 0)
    gated = torch.tensor([[0.9933, 2.9799], [-0.5379, 0.0]]).view(1, 2, 1, 2)
    # place gates sigmoid(0.9933), sigmoid(2.9799)
    place = torch.tensor([0.7297, 0.9517]).view(1, 1, 1, 2)
    torch.testing.assert_close(block(feature), gated * place + feature, rtol=0, atol=1e-3)


def test_mbcsa_adds_the_pooled_input_where_it_halves_the_size():
    block = MBCSA(2, 3, stride=2).eval()
    nn.init.zeros_(block.branch[-1].weight)  # the last normalization: the branch is zero
    feature = images(8)[:, :2]
    pooled = F.max_pool2d(feature, 3, 2, 1)
    torch.testing.assert_close(block(feature), F.conv2d(pooled, block.shortcut[1].weight))
    same = MBCSA(2, 2).eval()
    nn.init.zeros_(same.branch[-1].weight)
    assert torch.equal(same(feature), feature)


def test_patches_are_2x2_row_by_row():
    embed = PatchEmbedding(1, 4)
    embed.project = nn.Identity()
    tokens = embed(torch.arange(16.0).view(1, 1, 4, 4))
    assert tokens.tolist() == [[[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]]


def test_the_feed_forward_layer_has_no_normalization_as_published():
    block = TransformerBlock(8, heads=2)
    nn.init.zeros_(block.attention.proj.weight)
    nn.init.zeros_(block.attention.proj.bias)
    tokens = 5 + torch.randn(1, 3, 8)
    torch.testing.assert_close(block(tokens), tokens + block.feed_forward(tokens))
