"""Any classifier of timm, which is not among the requirements."""

import difflib
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn


class Tap(nn.Module):
    """A place to tap another module's input or output: hook `before` or `after` on it.

    `channels_last`: maps (B, h, w, C) come as (B, C, h, w).
    """

    def __init__(self, channels_last: bool) -> None:
        super().__init__()
        self.channels_last = channels_last

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        return feature.permute(0, 3, 1, 2) if self.channels_last and feature.ndim == 4 else feature

    def before(self, _module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self(inputs[0])

    def after(self, _module: nn.Module, _inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        self(output)


class TimmModel(nn.Module):
    """A timm model by its name, e.g. swinv2_small_window8_256 or vit_small_patch16_224.

    `pretrained` downloads the model's weights; `checkpoint` reads them from a local file instead (a state dict or
    safetensors of that model; its classifier may have other classes, its first convolution other channels).
    `image_size` is given to models of a fixed size (transformers) and ignored by others; None: the model's own.

    Taps: `embedding`, the input of the classifier; every submodule by timm's path, as it is (`blocks.3` of a ViT:
    tokens (B, N, C); `layers.1` of a Swin: (B, h, w, C)); and `taps`, names for such paths, by which the maps of a
    model that works on (B, h, w, C) come as (B, C, h, w), e.g. {encoder2: layers.1}.

    Raises ValueError, with the remedy, when timm or its torchvision cannot be imported, for an unknown model or tap,
    for arguments the model does not take, and for weights that cannot be had.
    """

    def __init__(
        self,
        model: str,
        in_channels: int = 3,
        num_classes: int = 2,
        pretrained: bool = False,
        checkpoint: str | None = None,
        image_size: int | None = None,
        taps: dict[str, str] | None = None,
    ) -> None:
        super().__init__()
        arguments = {"in_chans": in_channels, "num_classes": num_classes}
        self.model = _create(_import_timm(), model, arguments, pretrained, checkpoint, image_size)
        modules = {path: module for path, module in self.model.named_modules() if path}
        self.taps = {path: f"model.{path}" for path in modules}
        self.named_taps = nn.ModuleList()
        classifier = self.model.get_classifier()
        if isinstance(classifier, nn.Module):  # a distilled DeiT has two
            classifier.register_forward_pre_hook(self._add_tap("embedding", channels_last=False).before)
        channels_last = getattr(self.model, "output_fmt", None) == "NHWC"
        for name, path in (taps or {}).items():
            if path not in modules:
                raise ValueError(f"taps: {model} has no submodule {path!r}{_nearest(path, modules)}")
            modules[path].register_forward_hook(self._add_tap(name, channels_last).after)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(B, in_channels, H, W) -> logits (B, num_classes)."""
        return self.model(image)

    def _add_tap(self, name: str, channels_last: bool) -> Tap:
        self.taps[name] = f"named_taps.{len(self.named_taps)}"
        self.named_taps.append(Tap(channels_last))
        return self.named_taps[-1]


def _import_timm() -> ModuleType:
    build = torch.__version__.partition("+")[2] or "cpu"
    torchvision = f"torchvision --index-url https://download.pytorch.org/whl/{build}"
    try:
        import timm
    except ModuleNotFoundError as error:
        raise ValueError(
            f"network timm: {error.name} is not installed. "
            f"First `pip install {torchvision}` (the build for torch {torch.__version__}), then `pip install timm`"
        ) from None
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        raise ValueError(
            f"network timm: timm is installed, but does not load ({_reason(error)}). Most likely torchvision is not "
            f"the build for torch {torch.__version__}: `pip install --force-reinstall --no-deps {torchvision}`"
        ) from None
    return timm


def _create(
    timm: ModuleType,
    model: str,
    arguments: dict[str, Any],
    pretrained: bool,
    checkpoint: str | None,
    image_size: int | None,
) -> nn.Module:
    if not timm.is_model(model):
        known = _nearest(model, timm.list_models())
        raise ValueError(f"network timm: timm {timm.__version__} has no model {model!r}{known}")
    if pretrained and checkpoint is not None:
        raise ValueError("network timm: pretrained and checkpoint are two sources of weights: give one")
    if checkpoint is not None and not Path(checkpoint).expanduser().is_file():
        raise ValueError(f"network timm: no such checkpoint: {checkpoint}")
    arguments = dict(arguments)
    if image_size is not None and getattr(timm.get_pretrained_cfg(model), "fixed_input_size", False):
        arguments["img_size"] = image_size
    try:
        if checkpoint is not None:
            return _from_file(timm, model, arguments, Path(checkpoint).expanduser())
        return timm.create_model(model, pretrained=pretrained, **arguments)
    except Exception as error:
        remedy = "change its arguments"
        if pretrained:
            remedy = "without a network, give `checkpoint: FILE`, a copy of its weights, in place of `pretrained: true`"
        if checkpoint is not None:
            remedy = f"{checkpoint} must be a file of this model's weights, with its classifier"
        raise ValueError(f"network timm: {model} cannot be made ({_reason(error)}); {remedy}") from None


def _from_file(timm: ModuleType, model: str, arguments: dict[str, Any], file: Path) -> nn.Module:
    """The model with the file's weights; with a new classifier where the file's has other classes.

    timm loads strictly only with the file's number of classes; with another it takes whatever fits, be it nothing.
    """
    head = timm.get_pretrained_cfg(model).classifier
    weight = timm.models.load_state_dict(str(file)).get(f"{head}.weight")
    classes = {} if weight is None else {"num_classes": len(weight)}
    overlay = {"file": str(file), **classes}
    network = timm.create_model(model, pretrained=True, pretrained_cfg_overlay=overlay, **{**arguments, **classes})
    if network.num_classes != arguments["num_classes"]:
        network.reset_classifier(arguments["num_classes"])
    return network


def _nearest(word: str, known: Iterable[str]) -> str:
    matches = difflib.get_close_matches(word, list(known), n=3, cutoff=0.4)
    return f"; did you mean {' or '.join(matches)}?" if matches else ""


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
