"""How fast a device copies and multiplies, and how much of a GPU a program uses, by nvidia-smi."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from datetime import datetime
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
        self.samples: list[tuple[float, float, float]] = []
        program = shutil.which("nvidia-smi") if torch.cuda.is_available() else None
        query = ["--query-gpu=timestamp,utilization.gpu,memory.used", "--format=csv,noheader,nounits"]
        command = [program, *query, "-lms", "200", "-i", "0"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True) if program else None
        if self._process is not None:
            threading.Thread(target=self.read, args=(self._process.stdout,), daemon=True).start()
        return self

    def read(self, lines: Iterable[str]) -> None:
        """Keeps when a line was sampled (seconds since 1970), the use of the GPU (percent), and its memory (MiB)."""
        for line in lines:
            when, use, memory = line.split(",")
            at = datetime.strptime(when.strip(), "%Y/%m/%d %H:%M:%S.%f").timestamp()
            self.samples.append((at, float(use), float(memory)))

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()

    def found(self, begin: float, end: float) -> dict[str, float]:
        """The mean use of the GPU from begin to end (seconds since 1970), and the most memory in use at any time."""
        uses = [use for at, use, _ in self.samples if begin <= at <= end]
        if not uses:
            return {}
        return {"GPU %": statistics.fmean(uses), "memory GB": max(memory for *_, memory in self.samples) / 1024}
