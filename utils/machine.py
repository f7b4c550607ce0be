"""The cores and the memory that this process may use."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

CONTAINER = Path("/sys/fs/cgroup/memory.max")  # of control groups in version 2; "max" where there is no limit
QUOTA = Path("/sys/fs/cgroup/cpu.max")  # microseconds of CPU time per period, and the period; "max" likewise


def cores() -> int:
    """Cores that this process may use: those it is bound to (taskset, Slurm), and no more than its container has."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):
        quota, period = map(int, QUOTA.read_text().split())
        bound = min(bound, max(1, -(-quota // period)))
    return bound


def memory_limit() -> float:
    """Half of the memory of this machine, or of its container, in bytes; inf where neither is known."""
    limits = []
    if hasattr(os, "sysconf"):
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with suppress(OSError, ValueError):
        limits.append(int(CONTAINER.read_text()))
    return min(limits, default=float("inf")) / 2
