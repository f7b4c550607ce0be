"""What the measurements were made on."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch

BUSY = 0.6  # load per core from which times cannot be trusted


def describe_machine() -> dict[str, str]:
    """CPU, threads, GPU and the versions that matter, by name."""
    found = {
        "CPU": processor(),
        "threads": str(torch.get_num_threads()),
        "PyTorch": torch.__version__,
        "Python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    if torch.cuda.is_available():
        found["GPU"] = torch.cuda.get_device_name()
    return found


def processor() -> str:
    """The CPU's model, and whether it computes in bf16."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass  # no Linux, or one that does not say
    capabilities = torch.cpu.get_capabilities()
    has_bf16 = any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))
    return f"{model} ({'with' if has_bf16 else 'without'} bf16 instructions)"


def other_work() -> str:
    """A clause for what is measured now, if this machine has much else to do; else nothing."""
    try:
        load, cores = os.getloadavg()[0], os.cpu_count() or 1
    except OSError:
        return ""  # not told on this system
    if load < BUSY * cores:
        return ""
    return f"; this machine had other work meanwhile (load {load:.1f} on {cores} cores): the times are too long"
