"""What only a GPU can show: a CUDA graph trains as the steps that it records."""

import pytest
import torch
from captured_steps import interrupt_at_step, losses_of_50_steps, make
from lightning_fabric import Fabric
from tiny_runs import assert_same_weights, run_student, taught, tiny

from datasets.slices.dataset import SliceDataset
from networks import NETWORKS
from utils.evaluation.inference import evaluate
from utils.evaluation.metrics import PublishedProtocol, VolumeDice
from utils.training.loading import Loader
from utils.training.step import CudaGraph

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
__all__ = ["taught", "tiny"]  # fixtures


@pytest.fixture(autouse=True)
def deterministic(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)


def test_a_graph_has_the_losses_of_its_steps_to_the_last_bit():
    fabric = Fabric(accelerator="cuda", devices=1, precision="32-true")
    assert torch.equal(losses_of_50_steps(fabric), losses_of_50_steps(fabric, new_graph=CudaGraph))


def test_a_graph_in_bf16_has_the_losses_of_its_steps_but_for_rounding():
    fabric = Fabric(accelerator="cuda", devices=1, precision="bf16-mixed")
    one, other = losses_of_50_steps(fabric), losses_of_50_steps(fabric, new_graph=CudaGraph)
    torch.testing.assert_close(one, other, rtol=0.05, atol=0.02)


@pytest.mark.parametrize("graph", ["auto", "never"])
def test_a_run_that_is_resumed_equals_one_that_is_not(taught, tmp_path, monkeypatch, graph):
    flags = [f"--training.graph={graph}", "--training.checkpoint_minutes=0", "--training.log_every=1"]
    assert run_student(taught, tmp_path / "whole", *flags) == 0
    interrupt_at_step(6, monkeypatch)
    assert run_student(taught, tmp_path / "stopped", *flags) == 130
    assert run_student(taught, tmp_path / "stopped", *flags, "--resume=true") == 0
    assert_same_weights(tmp_path / "whole", tmp_path / "stopped")


@pytest.mark.parametrize("where", [{}, {"device_gb": 0.0}, {"device_gb": 0.0, "cache": False}])
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_from_wherever_they_come(slice_store, where, workers):
    augment = ("flip", "rot90", "affine", "intensity")
    reference = SliceDataset(slice_store, "train", crop=32, augment=augment)
    dataset = SliceDataset(slice_store, "train", crop=32, augment=augment, **where)
    loader, batches = Loader(dataset, torch.device("cuda"), workers), [[0, 1, 2], [5, 3, 4], [8, 6, 7]]
    for _ in range(2):  # processes live on
        for batch, indices in zip(loader(batches), batches, strict=True):
            expected = reference.batch(indices)
            assert batch["image"].is_cuda
            torch.testing.assert_close(batch["image"].cpu(), expected["image"], rtol=1e-4, atol=1e-4)
            assert (batch["target"].cpu() != expected["target"]).float().mean() < 1e-3  # ties of the nearest pixel
            assert batch["case"] == expected["case"]


@pytest.mark.parametrize("graph", ["auto", "never"])
def test_no_step_waits_for_the_device(slice_store, graph):
    fabric = Fabric(accelerator="cuda", devices=1, precision="bf16-mixed")
    step, _ = make(fabric, graph)
    augment = ("flip", "rot90", "affine", "intensity")
    dataset = SliceDataset(slice_store, "train", crop=32, augment=augment)
    batches = Loader(dataset, torch.device("cuda"))([[0, 1, 2, 3]] * 8)
    try:
        for number, batch in enumerate(batches):
            torch.cuda.set_sync_debug_mode("default" if number < 2 else "error")  # the first allocates and captures
            step(batch["image"], batch["target"])
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_validation_waits_for_the_device_once_its_batches_are_done(slice_store):
    class Read(VolumeDice):
        def compute(self):
            torch.cuda.set_sync_debug_mode("default")
            return super().compute()

    fabric = Fabric(accelerator="cuda", devices=1, precision="bf16-mixed")
    dataset = SliceDataset(slice_store, "test", task="all")
    network = NETWORKS["unet"](num_classes=3, widths=[4, 4, 4, 4, 4]).cuda()
    found = []
    for mode in ("default", "error"):  # the first allocates
        metrics = [Read(dataset.class_names), PublishedProtocol(dataset.class_names)]
        torch.cuda.set_sync_debug_mode(mode)
        try:
            found.append(evaluate(fabric, network, dataset, metrics, batch_size=4, channels_last=True))
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert found[0] == found[1]
