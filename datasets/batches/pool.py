"""The decoded samples of a split, one after the other in flat tensors."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from utils.machine import memory_share

PIECE = 64 * 2**20  # bytes on their way to a device
READERS = 8  # threads

Read = Callable[[int], Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Pool:
    """Samples of a height and a width of their own, each part of all of them in one flat tensor.

    Args:
        parts: Such as "image" and "target": the values of all samples, (C, H, W) of each in C order, as many channels
            in every sample.
        heights, widths: int64 (N,), in pixels.
        offsets: int64 (N,), how many pixels (of one channel) lie before a sample.
    """

    parts: Mapping[str, Tensor]
    heights: np.ndarray
    widths: np.ndarray
    offsets: np.ndarray

    @property
    def device(self) -> torch.device:
        return next(iter(self.parts.values())).device

    def lies_on(self, device: torch.device) -> bool:
        """Whether this is the device of the samples; one without a number is any of its type."""
        return self.device.type == device.type and device.index in (None, self.device.index)

    def channels(self, part: str) -> int:
        pixels = int(self.offsets[-1] + self.heights[-1] * self.widths[-1])
        return self.parts[part].numel() // pixels

    def to(self, device: torch.device) -> "Pool":
        """The same samples in the memory of a device."""
        parts = {name: flat.to(device) for name, flat in self.parts.items()}
        return Pool(parts, self.heights, self.widths, self.offsets)


def pool_of(samples: Sequence[Mapping[str, np.ndarray]]) -> Pool:
    """A pool of few samples that were just read: arrays (H, W) or (C, H, W)."""
    sizes = np.array([next(iter(sample.values())).shape[-2:] for sample in samples], np.int64)
    parts = {
        name: torch.from_numpy(np.concatenate([sample[name].reshape(-1) for sample in samples])) for name in samples[0]
    }
    return Pool(parts, *_layout(sizes))


def load(
    read: Read, sizes: Sequence[tuple[int, int]], formats: Mapping[str, tuple[int, np.dtype]], device: torch.device
) -> Pool:
    """Read all samples into the memory of a device, by several threads and in pieces: they need not fit the host's.

    Args:
        read: The parts of a sample by its number; an array of another height and width than `sizes` says is an error
            of the caller.
        sizes: (H, W) of every sample.
        formats: How many channels each part has, and how its numbers are stored.
        device: Where the pool is to be.
    """
    heights, widths, offsets = _layout(np.asarray(sizes, np.int64))
    ends = offsets + heights * widths
    channels = {name: count for name, (count, _) in formats.items()}
    parts = {
        name: torch.empty(int(ends[-1]) * count, dtype=torch.from_numpy(np.empty(0, kind)).dtype, device=device)
        for name, (count, kind) in formats.items()
    }
    with ThreadPoolExecutor(READERS) as threads:
        for first, last in _pieces(ends, sum(count * np.dtype(kind).itemsize for count, kind in formats.values())):
            start, length = int(offsets[first]), int(ends[last - 1] - offsets[first])
            places = {
                name: flat.narrow(0, start * channels[name], length * channels[name]) for name, flat in parts.items()
            }
            buffers = places
            if device.type != "cpu":
                pinned = device.type == "cuda"
                buffers = {name: torch.empty_like(at, device="cpu", pin_memory=pinned) for name, at in places.items()}
            arrays = {name: buffer.numpy() for name, buffer in buffers.items()}

            def fill(number: int, start: int = start, arrays: Mapping[str, np.ndarray] = arrays) -> None:
                for name, values in read(number).items():
                    begin = (int(offsets[number]) - start) * channels[name]
                    arrays[name][begin : begin + values.size] = values.reshape(-1)

            for _ in threads.map(fill, range(first, last)):
                pass  # an error while reading is raised here
            if buffers is not places:
                for name, place in places.items():
                    place.copy_(buffers[name])
    return Pool(parts, heights, widths, offsets)


def _layout(sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    heights, widths = sizes.T
    return heights, widths, np.cumsum(heights * widths) - heights * widths


def _pieces(ends: np.ndarray, pixel_bytes: int) -> Iterator[tuple[int, int]]:
    """Runs of samples [first, last) of at most `PIECE` bytes, or of one sample."""
    first = 0
    while first < len(ends):
        start = ends[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(ends, start + PIECE // pixel_bytes, side="right")))
        yield first, last
        first = last


def check_device_gb(device_gb: float | None) -> None:
    """Raises ValueError for a limit of device memory, in GB, that is below 0."""
    if device_gb is not None and device_gb < 0:
        raise ValueError(f"device_gb {device_gb:g} is negative: give gigabytes of the GPU's memory, 0 for none")


def room(device: torch.device, device_gb: float | None) -> float:
    """Bytes that a split may take on a GPU: so many gigabytes, or half of what is free there."""
    return memory_share(device) if device_gb is None else device_gb * 1e9
