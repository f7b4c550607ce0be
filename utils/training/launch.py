"""Processes and memory format of a run."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from utils.recipe.schema import Training
from utils.training.device import check_device, resolve_precision, use_hardware

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def launch(settings: Training) -> Fabric:
    """Fabric for one process, `training.devices` processes, or those that torchrun started."""
    from lightning_fabric import Fabric  # with torch's compiler, which scoring and predicting do not need
    from lightning_fabric.strategies import DDPStrategy
    from lightning_fabric.utilities.exceptions import MisconfigurationException

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # its notes repeat the run's own summary
    devices = int(os.environ.get("LOCAL_WORLD_SIZE", settings.devices))
    nodes = int(os.environ.get("WORLD_SIZE", devices)) // devices
    on_gpus = settings.accelerator != "cpu" and torch.cuda.is_available()
    if settings.sync_batchnorm and devices * nodes > 1 and not on_gpus:
        raise ValueError(
            "training.sync_batchnorm: torch synchronizes processes on GPUs only, and these are on the CPU; set it to "
            "false, or training.devices to 1"
        )
    check_device(settings.accelerator, settings.precision)
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
