"""What to do where a batch does not fit into the memory of a GPU."""

from __future__ import annotations

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from utils.recipe.schema import Training


def no_memory(fabric: Fabric, objective: nn.Module, image: Tensor, target: Tensor, settings: Training) -> ValueError:
    """The error to raise where a step ran out of memory: it names the smallest `training.accumulate` that fits.

    The parts are tried, forward and backward, on the images (B, C, H, W) of this process that did not fit.
    """
    if fabric.world_size > 1:  # what one process tries alone, the others would be waited for in
        count = settings.batch_size // fabric.world_size
        return ValueError(
            f"out of memory on the GPU: raise training.accumulate (now {settings.accumulate}), which sends the {count} "
            "images of each process through the networks in as many parts"
        )
    size, now = "x".join(map(str, image.shape[2:])), settings.accumulate
    failed = f"out of memory on the GPU: {len(image) // now} images of {size} do not fit at once"
    for count in range(now + 1, len(image) + 1):
        images = len(image) // count
        if len(image) % count == 0 and _fit(fabric, objective, image[:images], target[:images]):
            return ValueError(f"{failed}, {images} do: set training.accumulate to {count} (now {now})")
    return ValueError(
        f"{failed}, nor does one: lower the size of the images (data.crop or data.image_size) or the network's width, "
        "keep the images off the GPU (--data.device_gb 0), or end other programs that hold its memory (nvidia-smi)"
    )


def _fit(fabric: Fabric, objective: nn.Module, image: Tensor, target: Tensor) -> bool:
    if image.is_cuda:
        torch.cuda.empty_cache()
    parameters = [value for value in objective.parameters() if value.requires_grad]
    try:
        with fabric.autocast():
            losses = objective(image, target)
        torch.autograd.grad(sum(losses.values()), parameters, allow_unused=True)
    except torch.OutOfMemoryError:
        return False
    return True
