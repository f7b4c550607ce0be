"""How much memory a case may take."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

CONTAINER = Path("/sys/fs/cgroup/memory.max")  # of control groups in version 2; "max" where there is no limit


def memory_limit() -> float:
    """Half of the memory of this machine, or of its container, in bytes; inf where it cannot be told."""
    limits = []
    if hasattr(os, "sysconf"):
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with suppress(OSError, ValueError):
        limits.append(int(CONTAINER.read_text()))
    return min(limits, default=float("inf")) / 2
