"""Checkpoints: each rebuilds its network and preprocessing by itself, and is written whole or not at all."""

from __future__ import annotations

import hashlib
import random
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from datasets.files import replacing
from networks import NETWORKS
from utils.recipe.registry import build
from utils.training.foreign_files import explain

UNKNOWN_SPLIT = {"sha256": "unknown"}  # of converted weights: names no patients
REQUIRED = ("network", "weights", "preprocessing", "split", "scores", "recipe")


def save(checkpoint: dict[str, Any], path: Path) -> None:
    """Writes a checkpoint whole or not at all."""
    with replacing(path) as partial, partial.open("wb") as file:
        try:
            torch.save(checkpoint, file)
        except RuntimeError as error:  # the archive's writer hides what stopped it
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def file_of(path: str | Path) -> Path:
    """The checkpoint that is meant: a run's folder stands for its best.ckpt."""
    path = Path(path)
    return path / "best.ckpt" if path.is_dir() else path


def load(path: str | Path) -> dict[str, Any]:
    """Reads a checkpoint on the CPU, with weights_only: nothing in the file is executed.

    Raises ValueError naming the file when it is missing, unreadable or not one of this project's.
    """
    path = file_of(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such checkpoint; train.py writes best.ckpt and last.ckpt into its output folder")
    try:
        with warnings.catch_warnings(action="ignore"):  # torch warns of foreign pickles before it refuses them
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:
        raise ValueError(explain(path)) from None
    missing = [key for key in REQUIRED if not isinstance(checkpoint, dict) or key not in checkpoint]
    if len(missing) == len(REQUIRED) or (missing and "weights" in missing):
        raise ValueError(explain(path))
    if missing:
        raise ValueError(f"{path}: has no {', '.join(missing)}; it was not written by train.py or train_kd.py")
    return checkpoint


def patients_of(split: Mapping[str, Any], where: Path | str, *names: str) -> set[str]:
    """The patients of some splits, as the checkpoint `where` has them. Raises ValueError where they are not known."""
    if split["sha256"] == UNKNOWN_SPLIT["sha256"]:
        raise ValueError(
            f"{where}: was converted from published weights, and who they were trained on is not known: convert them "
            "again with --split_file of that training"
        )
    return {patient for name in names for patient in split[name]}


def rebuild(checkpoint: dict[str, Any]) -> nn.Module:
    """The checkpoint's network with its weights, loaded strictly, in eval mode."""
    network = build(NETWORKS, checkpoint["network"], "checkpoint: network")
    try:
        network.load_state_dict(checkpoint["weights"], strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"checkpoint: its weights do not fit its network {checkpoint['network']}: {reason}") from None
    return network.eval()


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def random_states() -> dict[str, Any]:
    """The states of all global random generators of this process, as tensors and plain values."""
    version, state, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    states = {
        "torch": torch.get_rng_state(),
        "python": [version, list(state), gauss],
        "numpy": [name, np.asarray(keys).tolist(), position, has_gauss, cached],
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state_all()
    return states


def restore_random_states(states: dict[str, Any]) -> None:
    torch.set_rng_state(states["torch"])
    version, state, gauss = states["python"]
    random.setstate((version, tuple(state), gauss))
    name, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"])
