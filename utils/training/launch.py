"""Device, precision, memory format and processes of a run."""

from __future__ import annotations

import logging
import os
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from lightning_fabric.utilities.exceptions import MisconfigurationException
from torch import nn

from utils.recipe.schema import Training


def launch(settings: Training) -> Fabric:
    """Fabric for one process, `training.devices` processes, or those that torchrun started."""
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # its notes repeat the run's own summary
    devices = int(os.environ.get("LOCAL_WORLD_SIZE", settings.devices))
    nodes = int(os.environ.get("WORLD_SIZE", devices)) // devices
    has_gpu = torch.cuda.is_available()
    if settings.accelerator == "cuda" and not has_gpu:
        raise ValueError(
            "training.accelerator cuda: torch finds no CUDA device here; set training.accelerator to auto or cpu, or "
            "check the driver (nvidia-smi) and CUDA_VISIBLE_DEVICES"
        )
    if settings.sync_batchnorm and devices * nodes > 1 and (settings.accelerator == "cpu" or not has_gpu):
        raise ValueError(
            "training.sync_batchnorm: torch synchronizes processes on GPUs only, and these are on the CPU; set it to "
            "false, or training.devices to 1"
        )
    if settings.precision == "16-mixed" and (settings.accelerator == "cpu" or not has_gpu):
        raise ValueError("training.precision 16-mixed needs a CUDA device; on a CPU set bf16-mixed, 32-true or auto")
    use_hardware()
    # Gradients lie in the buckets that processes exchange: no copy of them is made.
    several = {"strategy": DDPStrategy(gradient_as_bucket_view=True)} if devices * nodes > 1 else {}
    try:
        fabric = Fabric(
            accelerator=settings.accelerator,
            devices=devices,
            num_nodes=nodes,
            precision=resolve_precision(settings.precision, settings.accelerator),
            **several,
        )
    except (MisconfigurationException, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"training.accelerator {settings.accelerator} with training.devices {devices}: {reason}"
        ) from None
    if "LT_CLI_USED" not in os.environ:  # `fabric run` has launched already
        fabric.launch()
    return fabric


def use_hardware() -> None:
    """Lets a GPU compute in TF32 what stays in 32 bits, and cuDNN choose the fastest convolutions by trying them."""
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = not torch.backends.cudnn.deterministic


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


def memory_format(settings: Training) -> torch.memory_format:
    return torch.channels_last if settings.channels_last else torch.contiguous_format


def synchronized(network: nn.Module, settings: Training, world_size: int) -> nn.Module:
    """The network, with batch statistics over all processes where the settings ask for them.

    Its parameters are the same objects and its weights have the same names, so that checkpoints do not tell the two
    apart. A single process has all images itself.
    """
    if settings.sync_batchnorm and world_size > 1:
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    return network


def quiet(fabric: Fabric) -> bool | None:
    """tqdm's `disable`: bars are for the first process's terminal; in a log file they would be noise."""
    return None if fabric.is_global_zero else True


def all_processes(fabric: Fabric, value: Any) -> list[Any]:
    """The value that each process has, in the order of the processes."""
    if fabric.world_size == 1:
        return [value]
    values: list[Any] = [None] * fabric.world_size
    torch.distributed.all_gather_object(values, value)
    return values


def share_buffers(fabric: Fabric, network: nn.Module) -> None:
    """Gives every process the batch statistics of the first, which are those that are saved."""
    if fabric.world_size > 1:
        for buffer in network.buffers():
            torch.distributed.broadcast(buffer, 0)


def finish() -> None:
    """Parts the processes of a run: one that ends while another still holds the group can abort it."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
