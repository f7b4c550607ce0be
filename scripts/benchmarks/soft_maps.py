"""One distillation step with its batch: the teacher asked each time, its soft maps read, and the student alone.

Batches are of training slices in memory with every augmentation, continuous ones too; the terms are those of a method
that reads logits. All take turns in one process, and CPU seconds are counted, so that a busy machine slows them alike.
Random weights, and slices and maps of noise: the work does not depend on them.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from lightning_fabric import Fabric
from torch import nn
from tqdm import tqdm

from datasets.slices.augmentation import AUGMENTATIONS
from datasets.slices.dataset import SliceDataset
from datasets.slices.soft_maps import MapsWriter, read_maps
from datasets.slices.taught import SoftTeacher
from networks import NETWORKS
from scripts.benchmarks.noise_store import write_noise_store
from utils.distillation.losses import TASK_LOSSES
from utils.distillation.objective import Distiller, answers_in
from utils.distillation.terms import Task, read_terms
from utils.recipe.methods import method_file
from utils.recipe.schema import Training
from utils.training.launch import memory_format
from utils.training.optimization import make_optimizer
from utils.training.step import make_step

SLICES = 32


def run(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    sections = yaml.safe_load(method_file(args.method).read_text())["distillation"]
    with tempfile.TemporaryDirectory() as folder:
        store, maps = Path(folder) / "store", Path(folder) / "maps"
        write_noise_store(store, (1, 1, 1), SLICES, args.size * 4 // 3)
        write_noise_maps(maps, store)
        open_split = partial(SliceDataset, store, "train", crop=args.size, augment=AUGMENTATIONS)
        plain, taught = open_split(), open_split(maps=SoftTeacher([read_maps(maps)]))
        steps = {
            "the teacher asked": stepper(plain, sections, NETWORKS[args.teacher]()),
            "soft maps": stepper(taught, sections),
            "the student alone": stepper(plain),
        }
        seconds: dict[str, list[float]] = {name: [] for name in steps}
        for number in tqdm(range(args.rounds + 1), "rounds", leave=False):
            order = np.random.default_rng(number).integers(len(plain), size=args.batch_size).tolist()
            plain.epoch = taught.epoch = number
            for name, step in list(steps.items())[:: 1 if number % 2 else -1]:
                started = time.process_time()
                step(order)
                seconds[name].append(time.process_time() - started)
    shape = f"{args.batch_size} x 1 x {args.size} x {args.size}"
    print(f"{args.method}, {args.teacher} -> enet, {shape}, {args.threads} threads, torch {torch.__version__}")
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}  # the first fills caches
    slowest = medians["the teacher asked"]
    print(f"\n{'median of ' + str(args.rounds) + ' steps':20} {'CPU ms':>8} {'ratio':>7}")
    for name, value in medians.items():
        print(f"{name:20} {value * 1e3:8.1f} {slowest / value:6.2f}x")


def write_noise_maps(folder: Path, store: Path) -> None:
    """Soft maps of one class for the training case of a store."""
    made_by = {"command": "benchmark", "version": "", "teachers": [{"kind": "noise"}]}
    writer = MapsWriter(folder, store, ["tumor"], made_by, None, {"0": {"train": [], "val": []}}, ["train_000"])
    writer.write("train_000", np.random.default_rng(0).random(writer.shape("train_000"), np.float32), [0])


def stepper(
    dataset: SliceDataset, sections: list[dict[str, Any]] | None = None, teacher: nn.Module | None = None
) -> Callable[[list[int]], None]:
    """A step on these samples, as train.py and train_kd.py take it, with its batch."""
    settings = Training()
    fabric = Fabric(accelerator="cpu", devices=1, precision="32-true")
    terms = read_terms(sections or [], num_classes=2)
    objective = Distiller(NETWORKS["enet"](), Task(TASK_LOSSES["dice_focal"]()), teacher, terms, known="logits")
    objective = objective.train().to(memory_format=memory_format(settings))
    optimizer = make_optimizer([p for p in objective.parameters() if p.requires_grad], settings)
    *_, take = make_step(fabric, objective, optimizer, settings)

    def step(order: list[int]) -> None:
        batch = dataset.batch(order)
        image = batch["image"].contiguous(memory_format=memory_format(settings))
        with objective.knowing(answers_in(batch)):
            take(image, batch["target"])

    return step
