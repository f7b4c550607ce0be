"""One EMKD step, RA-UNet to ResNet-18: the training loop's against the published way, and what precision and layout do.

The published way is imitated on the same two networks: fp32, NCHW, its losses one after the other as its code computes
them, Adam. Ours is the step of train_kd.py with the terms of configs/methods/emkd.yaml, under every combination of
precision and memory format. All take turns in one process, so that a busy machine slows them alike. Random weights and
images: the work does not depend on them.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
import yaml
from lightning_fabric import Fabric
from torch import Tensor, nn
from tqdm import tqdm

from networks import NETWORKS
from utils.distillation.losses import TASK_LOSSES
from utils.distillation.objective import Distiller
from utils.distillation.taps import tap
from utils.distillation.terms import Task, read_terms
from utils.recipe.methods import METHODS
from utils.recipe.schema import Training
from utils.training.device import resolve_precision
from utils.training.launch import memory_format
from utils.training.optimization import make_optimizer
from utils.training.step import make_step

Step = Callable[[], Any]


def run(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    default = (resolve_precision("auto", device), Training().channels_last)
    image, target = make_batch(args.batch_size, args.size, device)
    steps = {"published way": published_step(image, target)}
    for precision in dict.fromkeys(("32-true", default[0])):
        for channels_last in (False, True):
            name = f"ours, {precision}, {'channels last' if channels_last else 'NCHW'}"
            steps[name] = our_step(image, target, precision=precision, channels_last=channels_last)
            if (precision, channels_last) == default:
                trained = name
    if args.compile:
        steps[f"{trained}, compiled"] = our_step(image, target, precision=default[0], compile=True)

    hardware = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {args.threads} threads"
    shape = f"{args.batch_size} x 1 x {args.size} x {args.size}"
    print(f"EMKD step, raunet -> resnet18, {shape}, {hardware}, torch {torch.__version__}")
    if default[0] == "32-true":
        print("bf16 is left out: this processor only emulates it")
    seconds = time_in_turns(steps, args.rounds, device)
    slowest = seconds["published way"]
    print(f"\n{'median of ' + str(args.rounds) + ' steps':44} {'ms':>8} {'images/s':>9} {'ratio':>6}")
    for name, value in seconds.items():
        print(f"{name:44} {value * 1e3:8.1f} {args.batch_size / value:9.2f} {slowest / value:5.2f}x")
    ratio = slowest / seconds[trained]
    print(f"\nas train_kd.py takes it here by default ({trained}), a step is {ratio:.2f}x as fast as the published way")


def make_batch(count: int, side: int, device: str) -> tuple[Tensor, Tensor]:
    """Noise (count, 1, side, side) with a tumor in it, and its target."""
    target = torch.zeros(count, 1, side, side, dtype=torch.int64, device=device)
    target[:, :, side // 4 : side // 3, side // 4 : side // 2] = 1
    return torch.randn(count, 1, side, side, device=device), target


def time_in_turns(steps: dict[str, Step], rounds: int, device: str) -> dict[str, float]:
    """Median seconds of each step; every round runs each once."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in tqdm(range(rounds + 2), "rounds", leave=False):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            if device == "cuda":
                torch.cuda.synchronize()
            if number >= 2:
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def our_step(image: Tensor, target: Tensor, **settings: Any) -> Step:
    """The step that train_kd.py takes with these settings of `training`; a CUDA graph where it can be."""
    settings = Training(batch_size=len(image), **settings)
    fabric = Fabric(accelerator=image.device.type, devices=1, precision=settings.precision)
    terms = read_terms(yaml.safe_load((METHODS / "emkd.yaml").read_text())["distillation"], num_classes=2)
    objective = Distiller(NETWORKS["resnet18"](), Task(TASK_LOSSES["dice_focal"]()), NETWORKS["raunet"](), terms)
    objective = fabric.to_device(objective.train()).to(memory_format=memory_format(settings))
    optimizer = make_optimizer([p for p in objective.parameters() if p.requires_grad], settings)
    *_, step = make_step(fabric, objective, optimizer, settings)
    return partial(step, image.contiguous(memory_format=memory_format(settings)), target)


def published_step(image: Tensor, target: Tensor) -> Step:
    """A step of EMKD's train_kd.py."""
    student, teacher = NETWORKS["resnet18"]().to(image.device).train(), NETWORKS["raunet"]().to(image.device).eval()
    teacher.requires_grad_(False)
    optimizer = torch.optim.Adam(nn.ModuleList([student, teacher]).parameters(), lr=1e-2, betas=(0.9, 0.999))
    one_hot = torch.cat([target == 0, target == 1], 1).float()

    def step() -> None:
        teacher_features = tap(teacher, image, ["encoder1", "encoder3"])
        student_features = tap(student, image, ["encoder1", "encoder3"])
        optimizer.zero_grad()
        published_loss(student_features, teacher_features, one_hot).backward()
        optimizer.step()

    return step


def published_loss(student: dict[str, Tensor], teacher: dict[str, Tensor], one_hot: Tensor) -> Tensor:
    """EMKD's total loss for two classes, formula by formula; features by tap, one_hot (B, 2, H, W)."""
    low, high = "encoder1", "encoder3"
    total = published_task_loss(student["logits"], one_hot)
    total = total + 0.1 * published_prediction_map(student["logits"], teacher["logits"])
    total = total + 0.9 * (
        published_importance_map(student[low], teacher[low]) + published_importance_map(student[high], teacher[high])
    )
    return total + 0.9 * (
        published_region_affinity(student[low], teacher[low], one_hot)
        + published_region_affinity(student[high], teacher[high], one_hot)
    )


def published_task_loss(logits: Tensor, one_hot: Tensor) -> Tensor:
    """Half focal loss (the gradient of its weight stopped), half Dice of the tumor over the batch."""
    rows = logits.flatten(2).transpose(1, 2).reshape(-1, 2)
    log_probability = F.log_softmax(rows, 1).gather(1, one_hot[:, 1].reshape(-1, 1).long()).flatten()
    focal = (-((1 - log_probability.detach().exp()) ** 2) * log_probability).mean()
    probability, tumor = torch.softmax(logits, 1)[:, 1].flatten(), one_hot[:, 1].flatten()
    dice = (2 * (probability * tumor).sum() + 1) / (probability.sum() + tumor.sum() + 1)
    return 0.5 * focal + 0.5 * (1 - dice)


def published_prediction_map(student: Tensor, teacher: Tensor) -> Tensor:
    log_student = F.log_softmax(student / 4, 1).reshape(-1, 2)
    return 16 * F.kl_div(log_student, F.softmax(teacher / 4, 1).reshape(-1, 2), reduction="batchmean")


def published_importance_map(student: Tensor, teacher: Tensor) -> Tensor:
    vectors = [F.normalize(side.pow(4).mean(1).flatten(1)) for side in (student, teacher)]
    return (vectors[0] - vectors[1]).pow(2).sum(1).mean()


def published_region_affinity(student: Tensor, teacher: Tensor, one_hot: Tensor) -> Tensor:
    masks = F.interpolate(one_hot, student.shape[2:])
    cosines = []
    for side in (student, teacher):
        background, tumor = masks[:, :1], masks[:, 1:]
        of_background = (side * background).sum((2, 3)) / background.sum((2, 3))
        of_tumor = (side * tumor).sum((2, 3)) / (tumor.sum((2, 3)) + 1)
        cosines.append(F.cosine_similarity(of_background, of_tumor, dim=1))
    return (cosines[0] - cosines[1]).pow(2).mean()
