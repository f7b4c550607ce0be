"""The device that a process computes on, and its precision."""

from __future__ import annotations

import ctypes
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

Movable = TypeVar("Movable", Tensor, nn.Module)
MIXED = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # of glibc's malloc.h


@dataclass(frozen=True)
class Device:
    """Where a network answers, and how: what a forward pass needs of Fabric.

    Training has Fabric itself, whose import takes as long as it does to predict a small volume: torch's compiler comes
    with it.
    """

    device: torch.device
    precision: str

    def to_device(self, value: Movable) -> Movable:
        return value.to(self.device)

    def autocast(self) -> AbstractContextManager:
        """Inside, the device computes in the precision."""
        if self.precision not in MIXED:
            return nullcontext()
        return torch.autocast(self.device.type, MIXED[self.precision])


def choose_device(accelerator: str, precision: str) -> Device:
    """The first device of `auto`, `cpu` or `cuda`. Raises ValueError where this machine has not what is asked for."""
    check_device(accelerator, precision)
    use_hardware()
    precision = resolve_precision(precision, accelerator)
    if precision not in ("32-true", *MIXED):
        raise ValueError(f"precision {precision}: choose from auto, 32-true, {', '.join(MIXED)}")
    kinds = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    kind = next(kind for kind, there in kinds.items() if there) if accelerator == "auto" else accelerator
    return Device(torch.device(kind, 0 if kind == "cuda" else None), precision)


def check_device(accelerator: str, precision: str) -> None:
    """Raises ValueError where this machine has not what is asked for."""
    has_gpu = torch.cuda.is_available()
    if accelerator == "cuda" and not has_gpu:
        raise ValueError(
            "training.accelerator cuda: torch finds no CUDA device here; set training.accelerator to auto or cpu, or "
            "check the driver (nvidia-smi) and CUDA_VISIBLE_DEVICES"
        )
    if precision == "16-mixed" and (accelerator == "cpu" or not has_gpu):
        raise ValueError("training.precision 16-mixed needs a CUDA device; on a CPU set bf16-mixed, 32-true or auto")


def use_hardware() -> None:
    """Lets a GPU compute in TF32 what stays in 32 bits, and cuDNN choose the fastest convolutions by trying them.

    Without a GPU the memory of one layer serves the next.
    """
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = not torch.backends.cudnn.deterministic
    else:
        _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Keeps blocks that were freed: glibc gives them back, and Linux zeroes each page of the next one again.

    A quarter of the time that a CPU takes for slices of 512x512 goes there. Blocks above 32 MB, the most that glibc
    takes, go back as before: the holes that they would leave are large. Without effect on another C library.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for parameter, value in ((M_MMAP_THRESHOLD, 2**25), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 2**26)):
            mallopt(parameter, value)


def resolve_precision(precision: str, accelerator: str) -> str:
    """`auto` is bf16-mixed on a GPU or CPU that computes in bf16, else 32-true."""
    if precision != "auto":
        return precision
    if accelerator != "cpu" and torch.cuda.is_available():
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capabilities = torch.cpu.get_capabilities()
        has_bf16 = any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))
    return "bf16-mixed" if has_bf16 else "32-true"
