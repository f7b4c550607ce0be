"""How fast a device copies and multiplies, and how much of a GPU a program uses, by nvidia-smi."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any

import torch


def ceilings(device: torch.device, side: int) -> list[dict[str, Any]]:
    """GB/s of a copy in memory (read and written), and TFLOP/s of a product of matrices of `side`."""
    values = torch.empty(side**2 * 4, dtype=torch.uint8, device=device)
    other = torch.empty_like(values)
    rows = [{"what": "copy", "GB/s": 2 * values.numel() / 1e9 / _seconds(device, lambda: other.copy_(values))}]
    for dtype in (torch.float32, torch.bfloat16):
        one = torch.randn(side, side, device=device).to(dtype)
        seconds = _seconds(device, lambda one=one: one @ one)
        what = f"product in {str(dtype).removeprefix('torch.')}"
        rows.append({"what": what, "TFLOP/s": 2 * side**3 / 1e12 / seconds})
    return rows


def wait(device: torch.device) -> None:
    """Until all work given to the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _seconds(device: torch.device, work: Callable[[], Any]) -> float:
    """The median time of one call of 20."""
    times = []
    for _ in range(20):
        wait(device)
        started = time.perf_counter()
        work()
        wait(device)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


class Watched:
    """Samples what nvidia-smi says of the GPU while a program runs; nothing where there is no nvidia-smi."""

    def __enter__(self) -> Watched:
        self.samples: list[tuple[float, float]] = []
        program = shutil.which("nvidia-smi") if torch.cuda.is_available() else None
        query = ["--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits", "-lms", "200", "-i", "0"]
        self._process = subprocess.Popen([program, *query], stdout=subprocess.PIPE, text=True) if program else None
        if self._process is not None:
            threading.Thread(target=self._read, daemon=True).start()
        return self

    def _read(self) -> None:
        for line in self._process.stdout:
            self.samples.append(tuple(float(value) for value in line.split(",")))

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()

    def found(self) -> dict[str, float]:
        """The median use of the GPU from its first work to its last, and the most memory in use."""
        at_work = [number for number, (use, _) in enumerate(self.samples) if use > 0]
        if not at_work:
            return {}
        use = statistics.median(use for use, _ in self.samples[at_work[0] : at_work[-1] + 1])
        return {"GPU %": use, "memory GB": max(memory for _, memory in self.samples) / 1024}
