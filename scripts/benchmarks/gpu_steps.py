"""The parts of the benchmark of a GPU that measure a step alone, and the batches alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from datasets.slices.augmentation import AUGMENTATIONS
from datasets.slices.dataset import SliceDataset
from scripts.benchmarks.gpu_bench import Bench, Row, free_memory
from scripts.benchmarks.gpu_use import wait
from scripts.benchmarks.kd_step import make_batch, our_step, published_step, time_in_turns
from scripts.benchmarks.operators import operators
from utils.training.device import resolve_precision
from utils.training.loading import Loader
from utils.training.order import order_of

IN_HOST_MEMORY = {"device_gb": 0, "cache_mb": 1 << 20}


def steps(bench: Bench) -> Iterator[Row]:
    """EMKD's step by the number of images: the published way, ours launched, ours captured."""
    precision = resolve_precision("auto", bench.device.type)
    for count in bench.size.batches:
        image, target = make_batch(count, bench.size.crop, bench.device.type)
        ways: dict[str, Callable[[], Any]] = {"published": published_step(image, target)}
        ways["launched"] = our_step(image, target, precision=precision, graph="never")
        if bench.device.type == "cuda":
            ways["captured"] = our_step(image, target, precision=precision)
        seconds = time_in_turns(ways, bench.size.rounds, bench.device.type)
        for name, value in seconds.items():
            parts = {} if name == "captured" else {"operators": operators(ways[name])}
            yield _row(name, count, value, 1e3 * seconds["published"]) | parts
        del ways
        free_memory()


def compiled(bench: Bench) -> Iterator[Row]:
    """torch.compile beneath the graph, with the seconds until its first step; a training's number of images first.

    Each number of images is compiled anew.
    """
    counts = bench.size.batches
    for count in (counts[1], *counts[:1], *counts[2:]):
        try:
            if bench.seconds_left < 20:
                raise TimeoutError("the time was over")
            yield _compiled(bench, count)
        except (RuntimeError, ValueError, OSError) as error:
            bench.left_out.append(f"compiled, {count} images: {' '.join(str(error).split())[:300]}")
        free_memory()


def _compiled(bench: Bench, count: int) -> Row:
    torch.compiler.reset()  # else another number of images is compiled for any number
    image, target = make_batch(count, bench.size.crop, bench.device.type)
    step = our_step(image, target, precision=resolve_precision("auto", bench.device.type), compile=True)
    started = time.perf_counter()
    step()
    wait(bench.device)
    first = time.perf_counter() - started
    seconds = time_in_turns({"compiled": step}, bench.size.rounds, bench.device.type)["compiled"]
    return _row("compiled", count, seconds, bench.step(count, "published").get("ms")) | {"first step s": first}


def _row(name: str, count: int, seconds: float, published_ms: float | None) -> Row:
    row = {"step": name, "images": count, "ms": 1e3 * seconds, "images/s": count / seconds}
    return row | ({"ratio": published_ms / (1e3 * seconds)} if published_ms else {})


def pipeline(bench: Bench) -> Iterator[Row]:
    """Batches alone, as an epoch of a training gets them, from where the split lies."""
    for augment in (("flip", "rot90"), AUGMENTATIONS):
        for where in ({}, IN_HOST_MEMORY) if bench.device.type == "cuda" else (IN_HOST_MEMORY,):
            root = bench.folder / "large"
            dataset = SliceDataset(root, "train", crop=bench.size.crop, augment=augment, **where)
            loader, count = Loader(dataset, bench.device), bench.size.batches[1]
            batches = order_of(dataset, count, seed=0).epoch(0)
            list(loader(batches[:2]))
            wait(bench.device)
            started = time.perf_counter()
            for _ in loader(batches):
                pass
            wait(bench.device)
            seconds = time.perf_counter() - started
            held = dataset.hold(bench.device) and bench.device.type == "cuda"
            row = {"augment": " ".join(augment), "split in memory of": "GPU" if held else "host", "images": count}
            row |= {"images/s": count * len(batches) / seconds}
            yield row | {"operators": operators(partial(dataset.batch, batches[0]))}
            del dataset, loader
            free_memory()
