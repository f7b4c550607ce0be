"""Encoder weights from a local file in torchvision's format."""

import pickle
from pathlib import Path

import torch
from torch import nn


def load_pretrained(
    encoder: nn.Module, path: str | Path, first_convolution: str, ignored: tuple[str, ...] = ("fc.",)
) -> None:
    """Load a torchvision state dict into an encoder with the same parameter names, in place.

    Strict, except for the `ignored` prefixes (the classifier) and the first convolution, which is adapted to the
    encoder's input channels: summed over RGB for one channel (the same as repeating the image three times), tiled and
    rescaled to the same sum for any other count. The file is read with `weights_only=True`.

    Raises ValueError if the file is missing, is not a state dict, or belongs to another architecture.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ValueError(f"pretrained: no such file: {path}. Give the path of a local torchvision state dict (.pth).")
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"pretrained: {path} is not a state dict that torch reads safely ({type(error).__name__}): give a "
            "file of torch.save(model.state_dict(), FILE), whole."
        ) from error
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise ValueError(f"pretrained: {path} holds no plain {{name: tensor}} state dict; save model.state_dict().")
    weights = {name: value for name, value in weights.items() if not name.startswith(ignored)}

    own = encoder.state_dict()
    if first_convolution in weights and weights[first_convolution].shape[1:2] == (3,):
        weights[first_convolution] = _adapt(weights[first_convolution], own[first_convolution].shape[1])
    # files older than torch 0.4 have no batch counters; BatchNorm fills them in
    missing = [name for name in own if name not in weights and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in weights if name not in own]
    wrong = [name for name in own if name in weights and weights[name].shape != own[name].shape]
    for problem, names in (("lacks", missing), ("has unknown", unexpected), ("has other shapes for", wrong)):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise ValueError(
                f"pretrained: {path} does not fit this encoder: it {problem} {', '.join(names[:3])}{more}. "
                "Give the file of the same architecture."
            )
    encoder.load_state_dict(weights, strict=False)


def _adapt(weight: torch.Tensor, in_channels: int) -> torch.Tensor:
    """First-convolution weight (out, 3, h, w) for `in_channels` inputs: (out, in_channels, h, w)."""
    if in_channels == 3:
        return weight
    if in_channels == 1:
        return weight.sum(dim=1, keepdim=True)
    return weight[:, torch.arange(in_channels) % 3] * (3 / in_channels)
