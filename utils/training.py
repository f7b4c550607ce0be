"""The loop: minimize an objective, validate, keep last and best."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm import tqdm

from utils import checkpoints
from utils.config import Training
from utils.interruption import Interruption
from utils.loading import epoch_batches, epoch_loader
from utils.optimization import gradient_shares, make_optimizer, make_schedule
from utils.tracking import Tracker

Validate = Callable[[nn.Module, int], tuple[dict[str, float], list[dict[str, Any]]]]


def fit(
    fabric: Fabric,
    objective: nn.Module,
    dataset: Dataset,
    validate: Validate,
    settings: Training,
    output: Path,
    *,
    identity: dict[str, Any],
    score: str,
    seed: int,
    tracker: Tracker,
    resumed: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Minimizes `objective` over `dataset` and writes OUTPUT/last.ckpt and OUTPUT/best.ckpt.

    `validate(network, step)` returns the scores of whole val cases and one row a case and class; `score` names the one
    that selects best.ckpt. `identity` is what makes a checkpoint rebuild its network: it is saved in both files.
    `resumed` is the content of last.ckpt to go on from: model, optimizer, schedule, position in the epoch and random
    states, so that an interrupted run ends in the same weights.

    Returns {"finished": bool, "signal": number or None, "best": score, "epoch": of best}.
    Raises ValueError naming the first term that was not finite, and a term without a gradient.
    """
    network = objective.network
    trained = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    steps = len(epoch_batches(len(dataset), settings.batch_size, seed, 0, world=fabric.world_size))
    memory_format = torch.channels_last if settings.channels_last else torch.contiguous_format
    objective.to(memory_format=memory_format)
    optimizer = make_optimizer(trained, settings)
    schedule = make_schedule(optimizer, settings, steps)
    state = {"epoch": 0, "position": 0, "best": float("-inf"), "best_epoch": -1, "scores": {}, "cases": []}
    if resumed is not None:
        state |= {key: resumed["training"][key] for key in ("epoch", "position", "best", "best_epoch")}
        state |= resumed["scores"]
        network.load_state_dict(resumed["weights"])
        if hasattr(objective, "terms"):
            objective.terms.load_state_dict(resumed["training"]["terms"])
        optimizer.load_state_dict(resumed["training"]["optimizer"])
        schedule.load_state_dict(resumed["training"]["schedule"])
    runner = torch.compile(objective) if settings.compile else objective
    runner, optimizer = fabric.setup(runner, optimizer)
    if resumed is not None:
        checkpoints.restore_random_states(resumed["training"]["random"][fabric.global_rank])

    def checkpoint() -> dict[str, Any]:
        return identity | {
            "weights": network.state_dict(),
            "scores": {"scores": state["scores"], "cases": state["cases"]},
            "epoch": state["epoch"],
        }

    def save_last() -> None:
        random_states = _all_processes(fabric, checkpoints.random_states())
        if fabric.is_global_zero:
            training = {key: state[key] for key in ("epoch", "position", "best", "best_epoch")} | {
                "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict(),
                "terms": objective.terms.state_dict() if hasattr(objective, "terms") else {},
                "random": random_states,
            }
            checkpoints.save(checkpoint() | {"training": training}, output / "last.ckpt")
        fabric.barrier()

    def result(signal: int | None) -> dict[str, Any]:
        return {"finished": signal is None, "signal": signal, "best": state["best"], "epoch": state["best_epoch"]}

    weights = objective.weights
    pin_memory = fabric.device.type == "cuda"
    saved_at = time.monotonic()
    with Interruption() as interruption:
        while state["epoch"] < settings.epochs:
            epoch, first = state["epoch"], state["position"]
            batches = epoch_batches(
                len(dataset), settings.batch_size, seed, epoch, fabric.global_rank, fabric.world_size
            )
            loader = epoch_loader(dataset, batches[first:], epoch, settings.workers, pin_memory)
            runner.train()
            watch = TermWatch(list(weights), weights)
            bar = tqdm(
                loader,
                f"epoch {epoch + 1}/{settings.epochs}",
                total=steps,
                initial=first,
                unit="step",
                disable=not fabric.is_global_zero,
                leave=False,
            )
            for position, batch in enumerate(bar, first):
                step = epoch * steps + position
                image = fabric.to_device(batch["image"]).contiguous(memory_format=memory_format)
                target = fabric.to_device(batch["target"])
                if step == 0 or (settings.share_every and step % settings.share_every == 0):
                    shares = gradient_shares(fabric, objective, image, target)
                    tracker.scalars({f"gradient_share/{name}": share for name, share in shares.items()}, step)
                losses = runner(image, target)
                fabric.backward(sum(weights[name] * loss for name, loss in losses.items()))
                if settings.clip_norm is not None:
                    fabric.clip_gradients(runner, optimizer, max_norm=settings.clip_norm)
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
                watch.add(losses, settings.batch_size, step, batch["case"])
                state["position"] = position + 1
                looks_up = position + 1 == steps or (position + 1) % settings.log_every == 0
                if looks_up or step == 0:
                    report = watch.report()
                    tracker.scalars(report | {"train/learning_rate": schedule.get_last_lr()[0]}, step)
                    bar.set_postfix_str(_postfix(report, state, score))
                    if time.monotonic() - saved_at > 60 * settings.checkpoint_minutes:
                        save_last()
                        saved_at = time.monotonic()
                if fabric.world_size == 1 or looks_up:
                    signals = _all_processes(fabric, interruption.signal)
                    stop = next((signal for signal in signals if signal), None)
                    if stop and position + 1 < steps:
                        save_last()
                        return result(stop)
            state |= {"epoch": epoch + 1, "position": 0}
            row: dict[str, Any] = {"epoch": epoch + 1, "loss": round(watch.mean_loss(), 6)}
            if (epoch + 1) % settings.validate_every == 0 or epoch + 1 == settings.epochs:
                scores, cases = validate(network, step)
                state |= {"scores": scores, "cases": cases}
                row |= {name: round(value, 6) for name, value in scores.items()}
                tracker.scalars({f"val/{name}": value for name, value in scores.items()}, step)
                if scores[score] > state["best"]:
                    state |= {"best": scores[score], "best_epoch": epoch + 1}
                    if fabric.is_global_zero:
                        checkpoints.save(checkpoint(), output / "best.ckpt")
                if fabric.is_global_zero:
                    tqdm.write(
                        f"epoch {epoch + 1:>3}/{settings.epochs}  loss {row['loss']:.4f}  val {score} "
                        f"{scores[score]:.4f}  best {state['best']:.4f} (epoch {state['best_epoch']})"
                    )
            tracker.epoch(row)
            save_last()
            saved_at = time.monotonic()
            stop = next((signal for signal in _all_processes(fabric, interruption.signal) if signal), None)
            if stop and epoch + 1 < settings.epochs:
                return result(stop)
    return result(None)


class TermWatch:
    """Keeps each step's terms on the device and looks at them a window at a time, so that steps need not wait."""

    def __init__(self, names: list[str], weights: dict[str, float]) -> None:
        self.names = names
        self.weights = torch.tensor([weights[name] for name in names])
        self.window: list[Tensor] = []
        self.cases: list[tuple[int, list[str]]] = []
        self.images = 0
        self.started = time.monotonic()
        self.losses: list[float] = []

    def add(self, losses: dict[str, Tensor], images: int, step: int, cases: list[str]) -> None:
        self.window.append(torch.stack([losses[name].detach().float() for name in self.names]))
        self.cases.append((step, list(cases)))
        self.images += images

    def report(self) -> dict[str, float]:
        """Means over the steps since the last report, raw and weighted; empties the window.

        Raises ValueError naming the first term that was not finite, its step and its cases.
        """
        values = torch.stack(self.window).cpu()
        finite = torch.isfinite(values)
        if not bool(finite.all()):
            row = int((~finite).any(1).nonzero()[0])
            names = [name for name, good in zip(self.names, finite[row].tolist(), strict=True) if not good]
            step, cases = self.cases[row]
            raise ValueError(
                f"not finite at step {step}: {', '.join(names)} (cases {', '.join(sorted(set(map(str, cases))))}); lower "
                "training.learning_rate or the term's weight, set training.clip_norm, or use training.precision 32-true"
            )
        mean = values.mean(0)
        weighted = mean * self.weights
        total = (values * self.weights).sum(1)
        self.losses += total.tolist()
        report = {"train/loss": float(total.mean())}
        report |= {f"terms/{name}": float(value) for name, value in zip(self.names, mean, strict=True)}
        report |= {f"weighted/{name}": float(value) for name, value in zip(self.names, weighted, strict=True)}
        now = time.monotonic()
        report["train/images_per_second"] = self.images / max(now - self.started, 1e-9)
        self.window, self.cases, self.images, self.started = [], [], 0, now
        return report

    def mean_loss(self) -> float:
        return sum(self.losses) / max(len(self.losses), 1)


def _postfix(report: dict[str, float], state: dict[str, Any], score: str) -> str:
    parts = [f"loss {report['train/loss']:.3f}", f"{report['train/images_per_second']:.0f} images/s"]
    if state["scores"]:
        parts.insert(1, f"val {score} {state['scores'][score]:.3f}")
    return ", ".join(parts)


def _all_processes(fabric: Fabric, value: Any) -> list[Any]:
    if fabric.world_size == 1:
        return [value]
    values: list[Any] = [None] * fabric.world_size
    torch.distributed.all_gather_object(values, value)
    return values
