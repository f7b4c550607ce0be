"""A step of training: its losses, its gradient and its update, launched one by one or replayed as one CUDA graph."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer

from utils.recipe.schema import Training
from utils.training.optimization import place_learning_rate

WARM_UP = 3  # steps before the capture, as torch's documentation has it: libraries choose and allocate in them


class Step:
    """One step of the optimizer, the reference that a captured one is held to.

    Args:
        objective: Its `answers`, if it has any, are of the whole batch.
        runner: The objective as Fabric calls it.
        optimizer: The optimizer as Fabric steps it.
    """

    def __init__(
        self, fabric: Fabric, objective: nn.Module, runner: nn.Module, optimizer: Optimizer, settings: Training
    ) -> None:
        self.fabric, self.objective, self.runner, self.optimizer = fabric, objective, runner, optimizer
        self.weights, self.settings = objective.weights, settings

    def __call__(self, image: Tensor, target: Tensor) -> Tensor:
        """image (B, C, H, W) and its target -> the unweighted losses (terms,), means over the parts of the batch."""
        count, means, answers = self.settings.accumulate, [], self.objective.answers
        for number in range(count):
            some_images, some_targets = (whole.tensor_split(count)[number] for whole in (image, target))
            some_answers = {name: whole.tensor_split(count)[number] for name, whole in answers.items()}
            with self._apart(number < count - 1), self.objective.knowing(some_answers):
                losses = self.runner(some_images, some_targets)
                self.fabric.backward(sum(weight * losses[name] for name, weight in self.weights.items()) / count)
            means.append(torch.stack([losses[name].detach().float() for name in self.weights]) / count)
        if self.settings.clip_norm is not None:
            # What is not finite shows in the next losses; asking here would wait for the device.
            limit = {"max_norm": self.settings.clip_norm, "error_if_nonfinite": False}
            self.fabric.clip_gradients(self.runner, self.optimizer, **limit)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return sum(means)

    def prepare(self, image: Tensor, target: Tensor) -> None:
        """Nothing: see `CapturedStep.prepare`."""

    def _apart(self, is_part: bool) -> Any:
        """Processes exchange gradients once a step, after its last part."""
        if self.fabric.world_size == 1:
            return nullcontext()
        return self.fabric.no_backward_sync(self.runner, enabled=is_part)


class Graph(Protocol):
    """What records the work of a device, to repeat it."""

    def warm_up(self, work: Callable[[], None]) -> None: ...
    def capture(self, work: Callable[[], None]) -> None: ...
    def replay(self) -> None: ...


class CudaGraph:
    """torch's CUDA graph, with its warm-up on another stream, as it wants it."""

    def __init__(self) -> None:
        self._graph = torch.cuda.CUDAGraph()

    def warm_up(self, work: Callable[[], None]) -> None:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            work()
        torch.cuda.current_stream().wait_stream(side)

    def capture(self, work: Callable[[], None]) -> None:
        # thread_local: what a thread that gathers batches does beside this is no part of the graph.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            work()

    def replay(self) -> None:
        self._graph.replay()


class CapturedStep:
    """A step whose kernels are launched at once: forwards, losses, backward, clipping and update as one graph.

    The first call captures it. Its warm-up trains for some steps; weights, batch statistics, the optimizer's state and
    random states are then put back, so that a run starts, and goes on, as with the step itself.

    Args:
        step: What is captured.
        optimizer: torch's own, capturable, with its learning rate in a tensor.
    """

    def __init__(self, step: Step, optimizer: Optimizer, new_graph: Callable[[], Graph] = CudaGraph) -> None:
        self.step, self.objective, self.optimizer = step, step.objective, optimizer
        self.new_graph = new_graph
        self.graph: Graph | None = None

    def __call__(self, image: Tensor, target: Tensor) -> Tensor:
        """As `Step`; every batch must have the first one's shape."""
        graph = self.prepare(image, target)
        for name, value in self._inputs(image, target).items():
            self.given[name].copy_(value)
        graph.replay()
        return self.losses.clone()

    def _inputs(self, image: Tensor, target: Tensor) -> dict[str, Tensor]:
        return {"image": image, "target": target} | self.objective.answers

    def prepare(self, image: Tensor, target: Tensor) -> Graph:
        """The graph of the step of batches like this one: captured once, which changes nothing.

        Raises ValueError where an operation of the step cannot be recorded.
        """
        if self.graph is not None:
            return self.graph
        given = {name: value.clone() for name, value in self._inputs(image, target).items()}
        self.given, image = given, given["image"]
        self.losses = torch.zeros(len(self.step.weights), device=image.device)

        def work() -> None:
            with self.objective.knowing({name: given[name] for name in given.keys() - {"image", "target"}}):
                self.losses.copy_(self.step(image, given["target"]))

        def warm_up() -> None:
            for _ in range(WARM_UP):
                work()

        graph = self.new_graph()
        with _without_autocast_cache(), torch.random.fork_rng([image.device] if image.is_cuda else []):
            # Adam warns that the steps of the warm-up are not captured.
            with _put_back(self.objective, self.optimizer), warnings.catch_warnings(action="ignore"):
                graph.warm_up(warm_up)
            try:
                graph.capture(work)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                reason = " ".join(str(error).split())[:200]
                raise ValueError(
                    f"the step cannot be captured as a CUDA graph ({reason}): set training.graph to never"
                ) from error
        self.graph = graph
        return graph


@contextmanager
def _without_autocast_cache():
    """Weights that were cast before a capture would be read in every replay."""
    was = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(was)


@contextmanager
def _put_back(objective: nn.Module, optimizer: Optimizer):
    """Undoes what steps change, in the same memory, which a graph may know already."""
    values = [(value, value.detach().clone()) for value in (*objective.parameters(), *objective.buffers())]
    before = {parameter: dict(_tensors(state)) for parameter, state in optimizer.state.items()}
    yield
    with torch.no_grad():
        for value, old in values:
            value.copy_(old)
        for parameter, state in optimizer.state.items():
            for key, value in _tensors(state, copy=False):
                old = before.get(parameter, {}).get(key)
                value.zero_() if old is None else value.copy_(old)


def _tensors(state: dict[str, Any], copy: bool = True) -> list[tuple[str, Tensor]]:
    return [(key, value.clone() if copy else value) for key, value in state.items() if isinstance(value, Tensor)]


def make_step(
    fabric: Fabric, objective: nn.Module, optimizer: Optimizer, settings: Training
) -> tuple[nn.Module, Optimizer, Step | CapturedStep]:
    """Runner and optimizer as Fabric has them, and the step that a run takes with them, captured where it can be."""
    captured = obstacle(fabric, settings) is None
    place_learning_rate(optimizer, fabric.device, captured)
    runner = torch.compile(objective) if settings.compile else objective
    runner, wrapped = fabric.setup(runner, optimizer)
    step = Step(fabric, objective, runner, wrapped, settings)
    if captured:
        return runner, wrapped, CapturedStep(step, optimizer)
    return runner, wrapped, step


def obstacle(fabric: Fabric, settings: Training) -> str | None:
    """Why the steps of a run are not captured as a CUDA graph; None where they are."""
    reasons = {
        "training.graph is never": settings.graph == "never",
        "only a GPU has such graphs": fabric.device.type != "cuda",
        "processes exchange gradients within it": fabric.world_size > 1,
        "the scaler of training.precision 16-mixed looks at the gradients": settings.precision == "16-mixed",
    }
    return next((reason for reason, holds in reasons.items() if holds), None)
