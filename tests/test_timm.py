"""timm's models as networks: messages without it; with it, a pair that distils, our transformers beside theirs."""

import copy
import importlib
import importlib.util
import re
import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from networks import NETWORKS
from utils.distillation.losses import TASK_LOSSES
from utils.distillation.objective import Distiller
from utils.distillation.taps import tap
from utils.distillation.terms import Task, read_terms
from utils.experiment.teacher import trial
from utils.recipe.registry import build

TORCHVISION = torch.library.Library("torchvision", "FRAGMENT")


def load_timm():
    """timm, also where torchvision is not the build for this torch: operators it misses are declared, without code."""
    while True:
        try:
            return importlib.import_module("timm")
        except RuntimeError as error:
            missing = re.search(r"operator torchvision::(\w+) does not exist", str(error))
            if missing is None:
                raise
            TORCHVISION.define(f"{missing[1]}(Tensor nothing) -> Tensor")
            for name in [name for name in sys.modules if name.split(".")[0] in ("timm", "torchvision")]:
                del sys.modules[name]


@pytest.fixture(scope="module")
def timm():
    for package in ("timm", "torchvision"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install timm torchvision")
    return load_timm()


def images(size: int = 64, in_channels: int = 3) -> torch.Tensor:
    return torch.randn(2, in_channels, size, size, generator=torch.Generator().manual_seed(0))


def forget_timm(monkeypatch) -> None:
    for name in ("timm", "torchvision"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_without_timm_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    message = (
        r"timm is not installed. First `pip install torchvision --index-url https://\S+`.* then `pip install timm`"
    )
    with pytest.raises(ValueError, match=message):
        build(NETWORKS, {"name": "timm", "model": "resnet18"}, "network")


def test_without_torchvision_it_is_named(monkeypatch, tmp_path):
    forget_timm(monkeypatch)
    (tmp_path / "timm.py").write_text("import torchvision")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ValueError, match="torchvision is not installed"):
        NETWORKS["timm"]("resnet18")


def test_a_torchvision_that_does_not_load_is_named_with_its_remedy(monkeypatch, tmp_path):
    forget_timm(monkeypatch)
    (tmp_path / "timm.py").write_text("import torchvision")
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"torchvision::nms does not exist\).* --no-deps torchvision --index-url"):
            NETWORKS["timm"]("resnet18")


class Timm(SimpleNamespace):
    """The little of timm that our network calls; `asked` keeps what it was asked for."""

    __version__ = "0"

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__(asked=[], error=error)

    def is_model(self, name: str) -> bool:
        return name in self.list_models()

    def list_models(self) -> list[str]:
        return ["resnet18", "swinv2_small_window8_256", "vit_small_patch16_224"]

    def get_pretrained_cfg(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(fixed_input_size=not name.startswith("resnet"))

    def create_model(self, name: str, **arguments) -> nn.Module:
        self.asked.append((name, arguments))
        if self.error is not None:
            raise self.error
        network = nn.Sequential(nn.Conv2d(arguments["in_chans"], 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        network.append(nn.Linear(2, arguments["num_classes"]))
        network.get_classifier = lambda: network[-1]
        return network


def test_an_unknown_model_gets_the_nearest_names(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", Timm())
    with pytest.raises(ValueError, match="has no model 'swin2_small_window8'; did you mean swinv2_small_window8_256"):
        NETWORKS["timm"]("swin2_small_window8")


def test_weights_that_cannot_be_fetched_are_a_line_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", Timm(FileNotFoundError("cannot reach\n the hub")))
    message = (
        r"vit_small_patch16_224 cannot be made \(FileNotFoundError: cannot reach the hub\); .*give `checkpoint: FILE`"
    )
    with pytest.raises(ValueError, match=message):
        NETWORKS["timm"]("vit_small_patch16_224", pretrained=True)


def test_weights_come_from_one_existing_place(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "timm", Timm())
    with pytest.raises(ValueError, match=r"no such checkpoint: .*absent\.pth"):
        NETWORKS["timm"]("resnet18", checkpoint=str(tmp_path / "absent.pth"))
    with pytest.raises(ValueError, match="give one"):
        NETWORKS["timm"]("resnet18", checkpoint="file.pth", pretrained=True)


def test_only_models_of_a_fixed_size_are_told_the_image_size(monkeypatch):
    fake = Timm()
    monkeypatch.setitem(sys.modules, "timm", fake)
    for name in ("resnet18", "vit_small_patch16_224"):
        NETWORKS["timm"](name, in_channels=1, num_classes=5, image_size=64)
    arguments = {"in_chans": 1, "num_classes": 5}
    arguments["pretrained"] = False
    assert fake.asked == [("resnet18", arguments), ("vit_small_patch16_224", {**arguments, "img_size": 64})]


def test_paths_of_the_model_its_embedding_and_own_names_are_taps(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", Timm())
    network = NETWORKS["timm"]("resnet18", taps={"encoder1": "0"})
    features = tap(network, images(), ["0", "encoder1", "2", "embedding"])
    assert torch.equal(features["encoder1"], features["0"])
    assert torch.equal(features["embedding"], features["2"])
    assert features["logits"].shape == (2, 2)
    with pytest.raises(ValueError, match="taps: resnet18 has no submodule '9'"):
        NETWORKS["timm"]("resnet18", taps={"encoder1": "9"})


@pytest.fixture(scope="module")
def swin(timm):
    section = {"name": "timm", "model": "swinv2_tiny_window8_256", "taps": {"encoder2": "layers.1"}}
    torch.manual_seed(0)
    return build(NETWORKS, section, "network", in_channels=3, num_classes=2, image_size=64)


@pytest.fixture(scope="module")
def vit(timm):
    section = {"name": "timm", "model": "vit_small_patch16_224"}
    torch.manual_seed(0)
    return build(NETWORKS, section, "network", in_channels=3, num_classes=2, image_size=64)


def test_swin_and_vit_of_timm_are_tapped_by_their_paths(swin, vit):
    features = tap(swin, images(), ["layers.1", "encoder2", "embedding"])
    assert features["layers.1"].shape == (2, 8, 8, 192)
    assert torch.equal(features["encoder2"], features["layers.1"].permute(0, 3, 1, 2))
    assert features["embedding"].shape == (2, 768)
    features = tap(vit, images(), ["blocks.3", "norm", "embedding"])
    assert features["blocks.3"].shape == (2, 17, 384)
    assert torch.equal(features["embedding"], features["norm"][:, 0])
    torch.testing.assert_close(vit.model.head(features["embedding"]), features["logits"])


def test_a_copy_of_a_timm_model_is_tapped_apart_from_it(swin):
    duplicate = copy.deepcopy(swin).to("meta")
    features = tap(duplicate, images().to("meta"), ["encoder2", "embedding"])
    assert features["encoder2"].device.type == features["embedding"].device.type == "meta"


def test_swinv2_teaches_vit_for_one_step(swin, vit):
    sections = [
        {"name": "soft_target", "student": "logits", "teacher": "logits", "weight": 0.4, "temperature": 4.0},
        {"name": "hint", "student": "embedding", "teacher": "embedding", "weight": 1.0, "projector": "learned"},
    ]
    teacher = copy.deepcopy(swin)
    objective = Distiller(copy.deepcopy(vit), Task(TASK_LOSSES["cross_entropy"]()), teacher, read_terms(sections))
    image, target = images(), torch.tensor([0, 1])
    trial(objective, image, target)
    objective.train()
    optimizer = torch.optim.SGD([value for value in objective.parameters() if value.requires_grad], lr=0.1)
    losses = objective(image, target)
    assert list(losses) == ["task", "soft_target/logits", "hint/embedding"]
    sum(objective.weights[name] * loss for name, loss in losses.items()).backward()
    assert all(value.grad is not None for value in objective.network.parameters())
    optimizer.step()
    assert not torch.equal(objective.network.model.head.weight, vit.model.head.weight)
    assert all(torch.equal(value, swin.state_dict()[name]) for name, value in teacher.state_dict().items())


def test_a_local_file_gives_the_weights_whatever_its_classes_and_channels(timm, tmp_path):
    source = timm.create_model("resnet18", num_classes=10)
    torch.save(source.state_dict(), tmp_path / "resnet18.pth")
    network = NETWORKS["timm"]("resnet18", in_channels=1, num_classes=3, checkpoint=str(tmp_path / "resnet18.pth"))
    weights = network.model.state_dict()
    assert torch.equal(weights["layer4.1.conv2.weight"], source.layer4[1].conv2.weight)
    torch.testing.assert_close(weights["conv1.weight"], source.conv1.weight.sum(dim=1, keepdim=True))
    assert weights["fc.weight"].shape == (3, 512)
    same = NETWORKS["timm"]("resnet18", num_classes=10, checkpoint=str(tmp_path / "resnet18.pth"))
    assert torch.equal(same.model.fc.weight, source.fc.weight)


def test_a_real_unknown_model_and_a_file_that_does_not_fit_are_refused(timm, tmp_path):
    with pytest.raises(ValueError, match="did you mean vit_small_patch16_224 or"):
        NETWORKS["timm"]("vit_smal_patch16_224")
    weights = timm.create_model("resnet34", num_classes=10).state_dict()
    torch.save(weights, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"Unexpected key.*other\.pth must be a file of this model's weights"):
        NETWORKS["timm"]("resnet18", num_classes=3, checkpoint=str(tmp_path / "other.pth"))


# Ours with timm's weights, all of them random: SwinV2's norms start at zero and would hide its attention.
@pytest.mark.parametrize(
    ("key", "model", "arguments", "head", "stages"),
    [
        ("vit_s16", "vit_small_patch16_224", {"image_size": 64}, "head", {"block4": "blocks.3", "tokens": "norm"}),
        (
            "swinv2",
            "swinv2_tiny_window8_256",
            {"image_size": 128, "depths": (2, 2, 6, 2)},
            "head.fc",
            {f"encoder{level}": f"layers.{level - 1}" for level in range(1, 5)},
        ),
    ],
)
def test_our_transformers_answer_as_timms_do(timm, key, model, arguments, head, stages, tmp_path):
    size = arguments["image_size"]
    taps = {name: path for name, path in stages.items() if name != "tokens"}
    theirs = NETWORKS["timm"](model, num_classes=5, image_size=size, taps=taps).eval()
    torch.manual_seed(0)
    for value in theirs.parameters():
        nn.init.normal_(value, std=0.1 if value.ndim == 1 else 0.05)
    weights = theirs.model.state_dict()
    torch.save(weights, tmp_path / "weights.pth")
    ours = NETWORKS[key](num_classes=5, pretrained=str(tmp_path / "weights.pth"), **arguments).eval()
    ours.classifier.weight.data, ours.classifier.bias.data = weights[f"{head}.weight"], weights[f"{head}.bias"]
    with torch.no_grad():
        expected = tap(theirs, images(size), [*taps, "norm", "embedding"])
        features = tap(ours, images(size), [*stages, "embedding"])
    for name in stages:
        reference = expected["norm" if name == "tokens" else name]
        torch.testing.assert_close(features[name], reference, rtol=1e-3, atol=1e-4)
    for name in ("embedding", "logits"):
        assert expected[name].std() > 1e-3
        torch.testing.assert_close(features[name], expected[name], rtol=1e-3, atol=1e-4)
    assert F.cosine_similarity(features["logits"][0], features["logits"][1], dim=0) < 1 - 1e-6
