"""Describes a file that was given as a checkpoint and is not one of this program's. Nothing in it is executed."""

from __future__ import annotations

import argparse
import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datasets.files import describe
from networks.published import candidates, misfit, recognize

# Packages whose classes a training state names beside the weights. None is imported: stand-ins take their place.
INERT = ("argparse.", "pytorch_lightning.", "lightning.", "lightning_fabric.", "numpy.", "pathlib.", "_codecs.")
MOST_CLASSES = 100
TEXTS = ((b"version https://git-lfs", "is a pointer of Git LFS, not the file itself: fetch it with git lfs pull"),)
BEGINNINGS = (
    (b"\x89HDF", "is an HDF5 file, as Keras writes it"),
    (b"\x1f\x8b", "is compressed with gzip: unpack it first"),
    (b"\x93NUMPY", "is a NumPy array"),
)


class _StandIn:
    """Takes the place of an object whose class is not imported; it keeps nothing."""

    def __init__(self, *_arguments: Any, **_named: Any) -> None:
        pass

    def __setstate__(self, _state: Any) -> None:
        pass


def read_inert(path: Path) -> Any:
    """What torch.save wrote to a file, read with `weights_only`: no class of INERT is imported or called.

    Raises OSError, and for all else ValueError that says what the file is.
    """
    allowed: list[Any] = []
    for _ in range(MOST_CLASSES):
        try:
            with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals(allowed):
                return torch.load(path, map_location="cpu", weights_only=True)
        except PermissionError:
            raise
        except Exception as error:  # an OSError too: a file cut short is read beyond its ends
            name = _refused_class(error)
            if name is None or not name.startswith(INERT):
                raise ValueError(f"{path}: cannot be read as a checkpoint: it {_kind(path, name, error)}") from None
            allowed.append((_stand_in(name), name))
    raise ValueError(
        f"{path}: cannot be read as a checkpoint: it names over {MOST_CLASSES} classes besides its weights"
    )


def _refused_class(error: Exception) -> str | None:
    """The class or function that stopped a read with weights_only."""
    found = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
    return found[1] if found else None


def _stand_in(name: str) -> type:
    if name == "argparse.Namespace":
        return argparse.Namespace
    return OrderedDict if name.endswith("Dict") else _StandIn  # the reader fills dictionaries of a known type only


def _kind(path: Path, refused: str | None, error: Exception) -> str:
    """What an unreadable file is, and what to do, to follow `it`."""
    with path.open("rb") as file:
        head = file.read(512)
    text = head.lstrip().lower()
    if not head:
        return "is empty: copy or download it again"
    for start, what in (*TEXTS, *BEGINNINGS):
        if head.startswith(start):
            return what
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "is a web page, as a failed download leaves one: download the file itself"
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:
        return (
            "holds safetensors: give it with its own ending and the description that scripts/export.py wrote beside it"
        )
    if head[:1] == b"\x08" and head[2:3] in (b"\x12", b"\x1a", b"\x3a"):
        return "is an ONNX model: give it the ending .onnx; it can predict, not teach or be trained"
    if head.startswith(b"PK") and (what := _kind_of_archive(path)):
        return what
    if refused is not None:
        return (
            f"names {refused}, which is not read, since that would execute code: save the weights alone with "
            "torch.save(model.state_dict(), FILE) where that code is"
        )
    if b"\0" not in head and head.isascii():
        return "is a text: give the checkpoint itself"
    if head.startswith(b"\x80") and isinstance(error, EOFError | RuntimeError | OSError):
        return "is cut short: copy or download it again"
    if head.startswith(b"\x80"):
        return "is a pickle that torch.save did not write: save the weights with torch.save(model.state_dict(), FILE)"
    return f"was not written by torch.save, or is damaged ({type(error).__name__}): copy or download it again"


def _kind_of_archive(path: Path) -> str | None:
    """What a zip archive is; None where it is an intact file of torch.save."""
    if not zipfile.is_zipfile(path):
        return "is cut short: copy or download it again"
    with zipfile.ZipFile(path) as archive:
        names = [name.partition("/")[2] or name for name in archive.namelist()]
        if any(name.startswith("code/") or name == "constants.pkl" for name in names):
            return "is a TorchScript program: save model.state_dict() in the code that made it"
        if any(name.startswith(("models/", "archive_format")) for name in names):
            return "is an ExportedProgram: give the run it was exported from"
        if all(name.endswith(".npy") for name in names):
            return "is an archive of NumPy arrays"
        if "data.pkl" not in names:
            return f"is a zip archive ({', '.join(archive.namelist()[:2])}): unpack it first"
        try:
            damaged = archive.testzip()
        except (zipfile.BadZipFile, NotImplementedError):
            damaged = "its content"
        return f"is damaged ({damaged}): copy or download it again" if damaged else None


def weights_of(content: Any) -> dict[str, Tensor] | None:
    """The state dict in what a file holds: alone, or as state_dict, model, model_state_dict, net or weights of it."""
    for found in (content, *(content.get(key) for key in KEYS if isinstance(content, Mapping))):
        if isinstance(found, Mapping) and found:
            tensors = {key: value for key, value in found.items() if isinstance(value, Tensor)}
            if len(tensors) == len(found) and all(isinstance(key, str) for key in tensors):
                return tensors
    return None


KEYS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights")


def explain(path: Path) -> str:
    """One line about a readable or unreadable file that is not a checkpoint: what it is, and the way to one."""
    try:
        content = read_inert(path)
    except ValueError as error:
        return str(error)
    except OSError as error:
        return describe(error, path)
    if isinstance(content, torch.nn.Module):
        return f"{path}: holds a whole model: save model.state_dict() in the code that made it"
    weights = weights_of(content)
    if weights is None:
        held = ", ".join(map(str, list(content)[:5])) if isinstance(content, Mapping) else type(content).__name__
        return f"{path}: holds no weights of a network ({held}); give a file that train.py or train_kd.py wrote"
    possible = candidates(weights)
    if found := recognize(weights, possible):
        converted = path.with_name(f"{path.stem}_converted.ckpt")
        return (
            f"{path}: holds weights of the published {found[0].network['name']}, not a checkpoint of train.py: "
            f"convert it with python scripts/ConvertCheckpoint.py --checkpoint {path} --output {converted}"
        )
    first, near = next(iter(weights)), ""
    if possible:
        near = f" (it is nearest to {possible[0][0]}, but {misfit(weights, *possible[0])})"
    return (
        f"{path}: holds weights alone ({len(weights)} tensors, such as {first}), not a checkpoint of train.py, and of "
        f"no published network that scripts/ConvertCheckpoint.py knows{near}"
    )
