"""How fast the engines were that were tried on this machine, remembered between runs in the user's cache folder."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from datasets.slices.store import write_json
from utils.machine import processor

FOLDER, FILE = "distillation-for-medical-images", "engines.json"
KEPT = 200  # entries, of which the oldest goes first


def cache_folder() -> Path:
    """Where programs of this user keep what they can make again."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData/Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / FOLDER


def key_of(files: Mapping[str, str], versions: Mapping[str, str], shape: tuple[int, ...], precision: str) -> str:
    """All that the times depend on, as one line.

    files: sha256 by name. versions: by engine. shape: of an image. precision: of the device.
    """
    facts = [
        *(f"{name} {sha256}" for name, sha256 in sorted(files.items())),
        *(f"{engine} {version}" for engine, version in sorted(versions.items())),
        f"{torch.get_num_threads()} threads",
        "x".join(map(str, shape)),
        precision,
        f"{processor()}, {torch.backends.cpu.get_cpu_capability()}",
    ]
    return "; ".join(facts)


def recall(key: str) -> dict[str, float]:
    """Milliseconds by engine; nothing where they were not measured, or the memory is damaged."""
    times = _read().get(key)
    sound = isinstance(times, dict) and all(type(value) is float and value > 0 for value in times.values())
    return times if sound else {}


def remember(key: str, milliseconds: Mapping[str, float]) -> None:
    """Keep them, if the folder can be written."""
    entries = _read()
    entries.pop(key, None)
    entries = dict(list({**entries, key: dict(milliseconds)}.items())[-KEPT:])
    with suppress(OSError):
        cache_folder().mkdir(parents=True, exist_ok=True)
        write_json(cache_folder() / FILE, entries)


def _read() -> dict[str, Any]:
    with suppress(OSError, ValueError, RecursionError):
        entries = json.loads((cache_folder() / FILE).read_text(encoding="utf-8"))
        return entries if isinstance(entries, dict) else {}
    return {}
