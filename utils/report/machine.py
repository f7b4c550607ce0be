"""What the measurements were made on."""

from __future__ import annotations

import platform
import time
from pathlib import Path

import torch

BUSY = 0.2  # share of the cores' time taken by others from which times cannot be trusted
LOOK_S = 0.5  # seconds to look at that


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
    """A clause for what is measured now, if others keep this machine busy; else, or where that is not told, nothing."""
    try:
        before = _ticks()
        time.sleep(LOOK_S)
        after = _ticks()
    except (OSError, ValueError, IndexError):
        return ""  # no Linux
    idle, whole = (later - earlier for earlier, later in zip(before, after, strict=True))
    busy = 1 - idle / max(whole, 1)
    if busy < BUSY:
        return ""
    return f"; this machine had other work ({busy:.0%} of its cores' time): the times may be too long"


def _ticks() -> tuple[int, int]:
    """Clock ticks all cores have idled, and all there were, since the start."""
    fields = [int(value) for value in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return fields[3] + fields[4], sum(fields)
