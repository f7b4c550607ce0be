"""Encoders that are given the weights of a local file in torchvision's format."""

import pytest
import torch

from networks import CLASSIFICATION, SEGMENTATION
from networks.resnet import ResNetEncoder


def images(height: int, width: int, in_channels: int = 1) -> torch.Tensor:
    return torch.randn(2, in_channels, height, width, generator=torch.Generator().manual_seed(0))


def torchvision_resnet(depth: int) -> dict[str, torch.Tensor]:
    """A state dict with torchvision's names and shapes for ResNet-18 or -34, random values."""
    weights = {"fc.weight": torch.randn(1000, 512), "fc.bias": torch.randn(1000)}

    def add(convolution: str, norm: str, shape: tuple[int, ...]) -> None:
        weights[f"{convolution}.weight"] = torch.randn(shape) / (shape[1] * shape[2] * shape[3]) ** 0.5
        for name in ("weight", "bias", "running_mean"):
            weights[f"{norm}.{name}"] = torch.randn(shape[0])
        weights[f"{norm}.running_var"] = torch.rand(shape[0]) + 0.5  # no num_batches_tracked: as in the oldest files

    add("conv1", "bn1", (64, 3, 7, 7))
    channels = 64
    for stage, blocks in enumerate({18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}[depth], start=1):
        width = 32 << stage
        for index in range(blocks):
            block = f"layer{stage}.{index}"
            add(f"{block}.conv1", f"{block}.bn1", (width, channels, 3, 3))
            add(f"{block}.conv2", f"{block}.bn2", (width, width, 3, 3))
            if width != channels:
                add(f"{block}.downsample.0", f"{block}.downsample.1", (width, channels, 1, 1))
            channels = width
    return weights


@pytest.fixture(scope="module")
def resnet_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "resnet34.pth"
    torch.manual_seed(0)
    torch.save(torchvision_resnet(34), path)
    return path


def test_pretrained_weights_reach_the_encoder(resnet_file):
    weights = torch.load(resnet_file, weights_only=True)
    network = SEGMENTATION["raunet"](in_channels=3, pretrained=str(resnet_file))
    own = network.encoder.state_dict()
    for name, value in weights.items():
        if not name.startswith("fc."):
            assert torch.equal(own[name], value), name


def test_one_channel_stem_equals_repeating_the_image(resnet_file):
    image = images(64, 64)
    one = SEGMENTATION["raunet"](in_channels=1, pretrained=str(resnet_file)).eval()
    three = SEGMENTATION["raunet"](in_channels=3, pretrained=str(resnet_file)).eval()
    with torch.no_grad():
        single = one.encoder(image)
        repeated = three.encoder(image.expand(-1, 3, -1, -1))
    torch.testing.assert_close(single[-1], repeated[-1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("in_channels", [2, 5])
def test_other_channel_counts_keep_the_sum_over_a_gray_image(resnet_file, in_channels):
    weights = torch.load(resnet_file, weights_only=True)["conv1.weight"]
    adapted = SEGMENTATION["raunet"](in_channels=in_channels, pretrained=str(resnet_file)).encoder.conv1.weight.data
    assert adapted.shape == (64, in_channels, 7, 7)
    assert torch.allclose(adapted[:, 1], weights[:, 1] * 3 / in_channels)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"no such file: .*absent\.pth"):
        SEGMENTATION["raunet"](pretrained=str(tmp_path / "absent.pth"))


def test_weights_of_another_architecture_are_refused_by_their_missing_names(tmp_path):
    path = tmp_path / "resnet18.pth"
    torch.save(torchvision_resnet(18), path)
    with pytest.raises(ValueError, match=r"resnet18\.pth does not fit .* lacks layer1\.2\.conv1\.weight"):
        SEGMENTATION["raunet"](pretrained=str(path))


def test_weights_of_a_larger_architecture_are_refused(resnet_file):
    with pytest.raises(ValueError, match=r"has unknown layer1\.2\.conv1\.weight"):
        SEGMENTATION["resnet18"](pretrained=str(resnet_file))


def test_a_file_that_is_no_state_dict_is_refused(tmp_path):
    path = tmp_path / "text.pth"
    path.write_text("not weights")
    with pytest.raises(ValueError, match="not a state dict"):
        SEGMENTATION["resnet18"](pretrained=str(path))


def test_pspnet_says_that_its_deep_stem_has_no_pretrained_weights(resnet_file):
    with pytest.raises(ValueError, match="deep_stem"):
        SEGMENTATION["pspnet"](depth=34, pretrained=str(resnet_file))
    SEGMENTATION["pspnet"](depth=34, deep_stem=False, pretrained=str(resnet_file))


# torchvision's mobilenet_v2: names and shapes of a few of its 52 convolutions
@pytest.mark.parametrize("key", ["mobilenetv2", "unet_mbnv2"])
def test_mobilenet_has_torchvision_names(key):
    with torch.device("meta"):
        weights = SEGMENTATION[key](in_channels=3).state_dict()
    assert weights["features.0.0.weight"].shape == (32, 3, 3, 3)
    assert weights["features.1.conv.0.0.weight"].shape == (32, 1, 3, 3)
    assert weights["features.1.conv.1.weight"].shape == (16, 32, 1, 1)
    assert weights["features.2.conv.0.0.weight"].shape == (96, 16, 1, 1)
    assert weights["features.2.conv.3.running_var"].shape == (24,)
    assert weights["features.17.conv.2.weight"].shape == (320, 960, 1, 1)


def test_unet_mbnv2_takes_a_file_with_the_blocks_it_lacks(tmp_path):
    full = SEGMENTATION["mobilenetv2"](in_channels=3)
    weights = {name: value for name, value in full.state_dict().items() if name.startswith("features.")}
    torch.save(weights | {"classifier.1.weight": torch.zeros(1000, 1280)}, tmp_path / "mobilenet.pth")
    network = SEGMENTATION["unet_mbnv2"](in_channels=3, pretrained=str(tmp_path / "mobilenet.pth"))
    assert torch.equal(network.features[17].conv[2].weight, full.features[17].conv[2].weight)


def test_resnet50_has_torchvision_names():
    with torch.device("meta"):
        weights = ResNetEncoder(50, 3).state_dict()
    assert len(weights) == 53 * 6  # 53 convolutions, each with a normalization of 5 entries; torchvision has fc besides
    assert weights["layer1.0.downsample.0.weight"].shape == (256, 64, 1, 1)
    assert weights["layer2.0.conv2.weight"].shape == (128, 128, 3, 3)
    assert weights["layer4.2.conv3.weight"].shape == (2048, 512, 1, 1)


# torchvision's squeezenet1_1 and efficientnet_b0: names and shapes of a few parameters, and how many there are
@pytest.mark.parametrize(
    ("key", "count", "shapes"),
    [
        (
            "squeezenet",
            50,
            {
                "features.0.weight": (64, 3, 3, 3),
                "features.3.squeeze.weight": (16, 64, 1, 1),
                "features.9.expand3x3.bias": (192,),
                "features.12.expand1x1.weight": (256, 64, 1, 1),
            },
        ),
        (
            "efficientnet_b0",
            211,
            {
                "features.0.0.weight": (32, 3, 3, 3),
                "features.1.0.block.0.0.weight": (32, 1, 3, 3),
                "features.1.0.block.1.fc1.weight": (8, 32, 1, 1),
                "features.2.1.block.0.1.weight": (144,),
                "features.3.0.block.1.0.weight": (144, 1, 5, 5),
                "features.7.0.block.2.fc2.weight": (1152, 48, 1, 1),
                "features.7.0.block.3.0.weight": (320, 1152, 1, 1),
                "features.8.1.bias": (1280,),
            },
        ),
    ],
)
def test_features_have_torchvision_names(key, count, shapes):
    with torch.device("meta"):
        weights = {name: value for name, value in CLASSIFICATION[key]().named_parameters() if "features." in name}
    assert len(weights) == count
    assert {name: tuple(weights[name].shape) for name in shapes} == shapes
