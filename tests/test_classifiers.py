"""Classification networks: logits, taps, gradients, published sizes, pretrained files, refusals."""

import copy
import math
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from networks import CLASSIFICATION, NETWORKS, SEGMENTATION
from networks.classifier_blocks import drop_branch
from utils.distillation.taps import tap
from utils.evaluation.complexity import complexity

SWIN = {"dim": 12, "depths": (2, 2, 2, 2), "heads": (1, 2, 2, 4), "window_size": 4}
# What makes each one small enough for a test, or fit for 32x32.
SMALL = {
    "densenet121": {},
    "efficientnet_b0": {},
    "resnet": {},
    "squeezenet": {},
    "swinv2": {"image_size": 32, **SWIN},
    "vit_s16": {"image_size": 32, "patch_size": 8},
    "teacher_model": {"blocks": (1, 2, 2)},
    "student_model": {"image_size": 32, "blocks": (1, 2, 2)},
    "HDKD": {"image_size": 32, "blocks": (1, 2, 2)},
}
KEYS = sorted(SMALL)
HEADS = {"student_model": "class_head", "HDKD": "class_head"}  # elsewhere: classifier
TOKENS = ("tokens", *(f"block{index}" for index in range(1, 13)))

# encoder1..4 and, where there is one, bottleneck; elsewhere HDKD's three stages
CHANNELS = {
    "densenet121": [64, 256, 512, 1024, 1024],
    "efficientnet_b0": [16, 24, 40, 112, 1280],
    "resnet": [64, 64, 128, 256, 512],
    "squeezenet": [64, 128, 256, 512],
    "swinv2": [12, 24, 48, 96],
}

# Million parameters and GMACs at 1000 classes, image size: torchvision's, timm's and the papers' figures
PUBLISHED = {
    "densenet121": (7.979, 2.83, 224),
    "efficientnet_b0": (5.289, 0.386, 224),
    "resnet": (11.690, 1.814, 224),
    "squeezenet": (1.235, 0.349, 224),
    "swinv2": (49.73, 11.5, 256),
    "vit_s16": (22.05, 4.6, 224),
}


def build(key: str, **arguments) -> nn.Module:
    torch.manual_seed(0)
    return CLASSIFICATION[key](**{"num_classes": 3, **SMALL[key], **arguments})


@cache
def evaluated(key: str) -> nn.Module:
    return build(key).eval()


def images(batch: int = 2, in_channels: int = 3, size: int = 32) -> torch.Tensor:
    return torch.randn(batch, in_channels, size, size, generator=torch.Generator().manual_seed(0))


def test_every_classifier_is_tested_but_timm_which_has_its_own_file():
    assert set(SMALL) == set(CLASSIFICATION) - {"timm"}
    assert NETWORKS == {**SEGMENTATION, **CLASSIFICATION}
    assert not set(SEGMENTATION) & set(CLASSIFICATION)


@pytest.mark.parametrize("key", KEYS)
def test_logits_and_taps_are_there_and_every_parameter_gets_a_gradient(key):
    network = build(key)
    clones = {}
    for name, path in network.taps.items():
        network.get_submodule(path).register_forward_hook(
            lambda _module, _inputs, output, name=name: clones.__setitem__(name, output.detach().clone())
        )
    features = tap(network, images(4), network.taps)

    assert isinstance(features["logits"], torch.Tensor)
    assert features["logits"].shape == (4, 3)
    for name, clone in clones.items():
        assert torch.equal(features[name], clone), f"{name} was overwritten after the tap"

    F.cross_entropy(features["logits"], torch.tensor([0, 1, 2, 0])).backward()
    lost = [name for name, value in network.named_parameters() if value.grad is None]
    assert not lost, "no gradient"
    assert all(torch.isfinite(value.grad).all() for value in network.parameters())


@pytest.mark.parametrize("key", KEYS)
def test_taps_are_maps_tokens_or_vectors_as_their_names_say(key):
    network = evaluated(key)
    with torch.no_grad():
        features = tap(network, images(), network.taps)
    maps = [name for name in ("encoder1", "encoder2", "encoder3", "encoder4", "bottleneck") if name in network.taps]
    assert maps[:3] == ["encoder1", "encoder2", "encoder3"]
    if key == "vit_s16":
        assert all(features[name].shape == (2, 17, 384) for name in (*maps, *TOKENS))  # a class token and (32 / 8)^2
    else:
        sides = [features[name].shape[-1] for name in maps]
        assert all(features[name].shape[-2:] == (side, side) for name, side in zip(maps, sides, strict=True))
        first = {"swinv2": 8, "squeezenet": 15}.get(key, 16)  # squeezenet's first convolution has no padding
        assert sides == [first >> level for level in range(len(maps))]
        assert [features[name].shape[1] for name in maps] == CHANNELS.get(key, [64, 96, 192])
    for name in ("class_logits", "distillation_logits"):
        if name in network.taps:
            assert features[name].shape == (2, 3)


@pytest.mark.parametrize("key", KEYS)
def test_embedding_is_the_vector_that_the_classifier_gets(key):
    network = evaluated(key)
    seen = []
    head = network.get_submodule(HEADS.get(key, "classifier"))
    handle = head.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        embedding = tap(network, images(), ["embedding"])["embedding"]
    handle.remove()
    assert embedding.shape == (2, head.in_features)
    assert torch.equal(embedding, seen[0])


@pytest.mark.parametrize("key", KEYS)
def test_in_eval_mode_an_image_gets_one_answer_whatever_its_batch(key):
    network = evaluated(key)
    with torch.no_grad():
        together, again, alone = network(images()), network(images()), network(images()[1:])
    assert torch.equal(together, again)
    torch.testing.assert_close(together[1:], alone, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(together[0], together[1], rtol=0, atol=1e-7)  # and it is of this image


@pytest.mark.parametrize("key", KEYS)
def test_bf16_autocast_gives_nearly_the_same_logits(key):
    network = evaluated(key)
    with torch.no_grad():
        exact = network(images())
        with torch.autocast("cpu", torch.bfloat16):
            rounded = network(images())
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), exact, rtol=0.1, atol=0.05 * exact.abs().max().item() + 0.005)


@pytest.mark.parametrize("key", KEYS)
def test_other_channels_and_classes_and_the_weights_survive_a_round_trip(key):
    with torch.no_grad():
        network = build(key, in_channels=1, num_classes=5).eval()
        restored = build(key, in_channels=1, num_classes=5).eval()
        for value in restored.parameters():
            value.add_(1)
        restored.load_state_dict(network.state_dict(), strict=True)
        logits = network(images(in_channels=1))
        assert logits.shape == (2, 5)
        assert torch.equal(restored(images(in_channels=1)), logits)


@pytest.mark.parametrize("key", KEYS)
def test_a_copy_on_another_device_runs(key):
    duplicate = copy.deepcopy(evaluated(key)).to("meta")
    assert tap(duplicate, images().to("meta"), ["embedding"])["logits"].shape == (2, 3)


@pytest.mark.parametrize(
    ("key", "arguments"), [("swinv2", {"depths": (2, 1, 1, 1)}), ("HDKD", {"blocks": (1, 1, 1), "depth": 1})]
)
def test_a_classifier_traces_into_one_graph(key, arguments):
    network = build(key, **arguments).eval()
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(images()), network(images()))


@pytest.mark.parametrize("key", PUBLISHED)
def test_size_is_the_published_one(key):
    parameters, macs, size = PUBLISHED[key]
    if key == "squeezenet":  # classes after the mean, not at each of 13 * 13 places
        macs -= 512 * 1000 * (13 * 13 - 1) / 1e9
    with torch.device("meta"):
        cost = complexity(CLASSIFICATION[key](3, 1000), 3, size)
    assert cost.parameters / 1e6 == pytest.approx(parameters, rel=0.001)
    assert cost.macs / 1e9 == pytest.approx(macs, rel=0.005)


def test_attention_is_counted_in_vits_size():
    with torch.device("meta"):
        macs = complexity(CLASSIFICATION["vit_s16"](), 3, 224).macs
    # patches; 12 blocks of 197 tokens: 4 + 8 projections of 384x384, queries with keys and with values; 2 classes
    patches, block = 196 * 768 * 384, 197 * 12 * 384**2 + 2 * 197**2 * 384
    assert macs == patches + 12 * block + 2 * 384


@pytest.mark.parametrize("key", ["efficientnet_b0", "resnet", "squeezenet", "vit_s16"])
def test_the_first_loss_is_that_of_a_guess(key):
    loss = F.cross_entropy(build(key)(images(8)), torch.arange(8) % 3)
    assert loss.item() == pytest.approx(math.log(3), abs=0.3)


@pytest.mark.parametrize("depth", [34, 50])
def test_resnet_has_the_published_depths(depth):
    with torch.device("meta"):
        parameters = complexity(CLASSIFICATION["resnet"](3, 1000, depth=depth), 3, 224).parameters
    assert parameters == {34: 21_797_672, 50: 25_557_032}[depth]  # torchvision's


@pytest.mark.parametrize(("key", "least"), [("squeezenet", 18), ("densenet121", 29), ("teacher_model", 8)])
def test_the_least_image_passes_and_a_smaller_one_is_refused(key, least):
    network = evaluated(key)
    with torch.no_grad():
        assert network(images(size=least)).shape == (2, 3)
    with pytest.raises(ValueError, match=rf"{least - 1}x{least - 1} is too small, .* {least}x{least}: set data.image"):
        network(images(size=least - 1))


@pytest.mark.parametrize("key", ["swinv2", "vit_s16", "student_model", "HDKD"])
def test_an_image_of_another_size_than_the_positions_is_refused(key):
    with pytest.raises(ValueError, match="built for images of 32x32, not 64x64: set network"):
        evaluated(key)(images(size=64))


@pytest.mark.parametrize(
    ("key", "arguments", "message"),
    [
        ("vit_s16", {"image_size": 60}, "60 is not a multiple of patch_size 8"),
        (
            "swinv2",
            {"image_size": 224, "window_size": 8},
            "224 gives maps that windows of 8 do not tile; a multiple of 256",
        ),
        ("swinv2", {"image_size": 48}, "image_size 48"),
        ("swinv2", {"depths": (2, 2)}, "four numbers each"),
        ("resnet", {"depth": 101}, "depth must be one of"),
    ],
)
def test_wrong_arguments_are_refused(key, arguments, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        CLASSIFICATION[key](**{**SMALL[key], **arguments})


def test_windows_of_7_tile_224():
    with torch.device("meta"):
        network = CLASSIFICATION["swinv2"](image_size=224, **{**SWIN, "window_size": 7}).eval()
        assert network(torch.empty(1, 3, 224, 224)).shape == (1, 2)


@pytest.mark.parametrize(
    ("key", "head"),
    [("squeezenet", "classifier.1"), ("efficientnet_b0", "classifier.1"), ("vit_s16", "head"), ("swinv2", "head.fc")],
)
def test_pretrained_files_load_all_but_their_classifier(key, head, tmp_path):
    source = build(key)
    weights = {name: value + 1 for name, value in source.state_dict().items() if not name.startswith("classifier.")}
    torch.save(weights | {f"{head}.weight": torch.zeros(1000, 7)}, tmp_path / "weights.pth")
    loaded = build(key, num_classes=4, pretrained=str(tmp_path / "weights.pth"))
    own = loaded.state_dict()
    assert all(torch.equal(own[name], value) for name, value in weights.items())
    assert own["classifier.weight"].shape[0] == 4


def test_stochastic_depth_drops_whole_samples_and_keeps_the_mean():
    torch.manual_seed(0)
    branch = drop_branch(torch.ones(1000, 2, 3), 0.2, training=True)
    assert set(branch.unique().tolist()) == {0.0, 1.25}  # 1 / (1 - 0.2)
    assert torch.equal(branch, branch[:, :1, :1].expand_as(branch))
    assert branch.mean().item() == pytest.approx(1, abs=0.06)  # sd of the mean 1.25 * sqrt(0.16 / 1000) = 0.016
    assert torch.equal(drop_branch(torch.ones(9, 1), 0.9, training=False), torch.ones(9, 1))


def test_vits_patches_know_their_place_and_its_class_token_answers():
    network = build("vit_s16").eval()
    image = images()
    turned = image.roll(8, dims=3)  # by a patch
    with torch.no_grad():
        features = tap(network, image, ["tokens", "embedding"])
        assert torch.equal(features["embedding"], features["tokens"][:, 0])
        assert not torch.allclose(network(turned), features["logits"], rtol=0, atol=1e-5)
        network.pos_embed.zero_()
        torch.testing.assert_close(network(turned), network(image), rtol=1e-3, atol=1e-5)
