"""The cores and the memory that this process may use, those of a GPU as well."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a command line is read without torch
    import torch

CONTAINER = Path("/sys/fs/cgroup/memory.max")  # of control groups in version 2; "max" where there is no limit
QUOTA = Path("/sys/fs/cgroup/cpu.max")  # microseconds of CPU time per period, and the period; "max" likewise


def cores() -> int:
    """Cores that this process may use: those it is bound to (taskset, Slurm), and no more than its container has."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):
        quota, period = map(int, QUOTA.read_text().split())
        bound = min(bound, max(1, -(-quota // period)))
    return bound


def processor() -> str:
    """The CPU's model."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):  # not Linux, or a CPU without a name
        return platform.processor() or platform.machine()


def memory_share(device: torch.device) -> float:
    """What data may take of a device's memory, in bytes: half of what is free on a GPU, else `memory_limit`."""
    if device.type == "cpu":
        return memory_limit()
    if device.type == "mps":
        return 0.0  # its memory is the machine's: nothing is nearer there
    import torch

    return torch.cuda.mem_get_info(device)[0] / 2


def memory_limit() -> float:
    """Half of the memory of this machine, or of its container, in bytes; inf where neither is known."""
    limits = []
    if hasattr(os, "sysconf"):
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with suppress(OSError, ValueError):
        limits.append(int(CONTAINER.read_text()))
    return min(limits, default=float("inf")) / 2
