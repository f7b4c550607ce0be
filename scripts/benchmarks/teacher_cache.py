"""One distillation step of a small student, the teacher's answers computed each time or read from disk.

Every image is met in the eight views that flips and quarter turns make, each with a target of its own in the cache. A
first pass over all views fills it; then both ways take the same batches in turn, from the same weights, and the losses
of every step are compared. Random images and weights: the work does not depend on them.
"""

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import yaml
from torch import Tensor
from tqdm import tqdm

from networks import NETWORKS
from utils.distillation.losses import TASK_LOSSES
from utils.distillation.objective import Distiller
from utils.distillation.teacher_cache import TeacherCache
from utils.distillation.terms import Task, read_terms
from utils.recipe.methods import METHODS
from utils.recipe.schema import Training
from utils.training.optimization import make_optimizer

VIEWS = [(turns, mirrored) for turns in range(4) for mirrored in (False, True)]


def run(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    slices = torch.randn(args.slices, 1, args.size, args.size)
    targets = torch.zeros(args.slices, 1, args.size, args.size, dtype=torch.int64)
    targets[:, :, args.size // 4 : args.size // 3, args.size // 4 : args.size // 2] = 1
    parts = list(zip(slices.split(args.batch_size), targets.split(args.batch_size), strict=True))
    batches = [(turned(image, *view), turned(target, *view)) for view in VIEWS for image, target in parts]
    student, teacher = NETWORKS["unet"](widths=[4, 8, 16, 32, 64]), NETWORKS[args.teacher]()
    terms = read_terms(yaml.safe_load((METHODS / f"{args.method}.yaml").read_text())["distillation"], num_classes=2)
    asking = Distiller(student, Task(TASK_LOSSES["dice_ce"]()), teacher, terms)
    with tempfile.TemporaryDirectory() as folder:
        views, limit = len(VIEWS) * args.slices, 10.0
        disk = TeacherCache(Path(folder), ("benchmark",), limit)
        memory = TeacherCache(Path(folder), ("benchmark",), limit, views, room=lambda: limit * 1e9)
        started = time.perf_counter()
        for number, (image, _) in enumerate(tqdm(batches, "first pass, filling the cache", leave=False)):
            disk(image, asking.teacher_taps, asking.ask)
            memory(image, asking.teacher_taps, asking.ask, numbers(args, number, len(image)))
        filling = time.perf_counter() - started
        size_mb = sum(file.stat().st_size for file in Path(folder).rglob("*.safetensors")) / 1e6
        caches = {"asked each time": None, "read from disk": disk, "read in memory": memory}
        steps = {name: stepper(args, copy.deepcopy(asking), cache) for name, cache in caches.items()}
        seconds: dict[str, list[float]] = {name: [] for name in steps}
        worst = 0.0
        for _ in tqdm(range(args.rounds), "rounds", leave=False):
            for number, (image, target) in enumerate(batches):
                turn = list(steps.items())[:: -1 if number % 2 else 1]  # who is first finds cold caches
                losses = {name: timed(seconds[name], partial(step, number, image, target)) for name, step in turn}
                online = losses.pop("asked each time")
                worst = max(worst, *(abs(online[name] - cached[name]) for cached in losses.values() for name in online))
    print(
        f"{args.method}, {args.teacher} -> unet, {len(VIEWS) * args.slices} views of {args.size} x {args.size}, "
        f"{args.threads} threads, torch {torch.__version__}"
    )
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    slowest = medians["asked each time"]
    print(f"\n{'median step of ' + str(args.batch_size):20} {'ms':>8} {'ratio':>6}")
    for name, value in medians.items():
        print(f"{name:20} {value * 1e3:8.1f} {slowest / value:5.2f}x")
    print(f"filling the cache: {filling / len(batches) * 1e3:.1f} ms a batch, once; files were written just before")
    steps_taken = args.rounds * len(batches)
    print(f"\nlargest difference of a loss over {steps_taken} steps of training: {worst:.1e}; cache: {size_mb:.0f} MB")


def turned(image: Tensor, turns: int, mirrored: bool) -> Tensor:
    """One of the eight views of images (B, 1, H, W)."""
    image = torch.rot90(image, turns, (2, 3))
    return (image.flip(3) if mirrored else image).contiguous()


def numbers(args: argparse.Namespace, batch: int, count: int) -> range:
    """The numbers of a batch's images among all views."""
    return range(batch * args.batch_size, batch * args.batch_size + count)


def stepper(
    args: argparse.Namespace, objective: Distiller, cache: TeacherCache | None
) -> Callable[[int, Tensor, Tensor], dict[str, float]]:
    """A training step that returns its losses."""
    objective.train()
    optimizer = make_optimizer([p for p in objective.parameters() if p.requires_grad], Training(learning_rate=1e-3))

    def step(number: int, image: Tensor, target: Tensor) -> dict[str, float]:
        views = numbers(args, number, len(image))
        known = {} if cache is None else cache(image, objective.teacher_taps, objective.ask, views)
        with objective.knowing(known):
            losses = objective(image, target)
        sum(objective.weights[name] * loss for name, loss in losses.items()).backward()
        optimizer.step()
        optimizer.zero_grad()
        return {name: float(loss.detach()) for name, loss in losses.items()}

    return step


def timed(seconds: list[float], step: Callable[[], dict[str, float]]) -> dict[str, float]:
    started = time.perf_counter()
    losses = step()
    seconds.append(time.perf_counter() - started)
    return losses
