"""What torch raises becomes one line that names the key to change; a launch refuses what a machine lacks."""

import re
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from utils.experiment.checks import refuse_lonely
from utils.recipe.schema import Recipe, Training
from utils.training.failures import explained
from utils.training.launch import launch
from utils.training.loading import Loader

RECIPE = Recipe(network={"name": "pspnet"}, training=Training(batch_size=3, workers=2))
WORKER = "Caught ValueError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  File x\n"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), "lower training.batch_size (now 3)"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "out of memory on this machine"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "training.workers (now 2)"),
        (RuntimeError("unable to write to file </torch_1>: No space left on device (28)"), "--shm-size"),
        (ValueError("Expected more than 1 value per channel when training"), "training.batch_size 3: network pspnet"),
        (
            ValueError(f"{WORKER}package.UnreadableError: a.png: unreadable: restore it\n"),
            "a.png: unreadable: restore it",
        ),
    ],
)
def test_an_error_of_torch_names_the_key(error, words):
    with pytest.raises(ValueError, match=re.escape(words)) as caught, explained(RECIPE):
        raise error

    assert "\n" not in str(caught.value)
    assert not str(caught.value).startswith("package")


def test_other_errors_pass_as_they_are():
    with pytest.raises(RuntimeError, match="a mistake of ours"), explained(RECIPE):
        raise RuntimeError("a mistake of ours")


def test_one_image_is_not_enough_to_normalize_over():
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(2))
    with pytest.raises(ValueError, match="raise training"):
        refuse_lonely(network, torch.zeros(1, 8, 8), batch_size=1, count=9)
    with pytest.raises(ValueError, match=r"more than one image"):
        refuse_lonely(network, torch.zeros(1, 8, 8), batch_size=4, count=1)
    refuse_lonely(network, torch.zeros(1, 8, 8), batch_size=2, count=9)
    refuse_lonely(network[:2], torch.zeros(1, 8, 8), batch_size=1, count=9)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine without CUDA is asked")
@pytest.mark.parametrize("key", [{"accelerator": "cuda"}, {"precision": "16-mixed"}])
def test_what_needs_a_gpu_is_refused_without_one(key):
    with pytest.raises(ValueError, match=rf"training\.{next(iter(key))} {next(iter(key.values()))}"):
        launch(Training(**key))


def test_threads_of_loader_processes_print_nothing(monkeypatch, capsys):
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    samples = SimpleNamespace(hold=lambda _device: False, batch=list)
    Loader(samples, torch.device("cpu"), workers=1)._processes.worker_init_fn(0)
    try:
        raise ConnectionResetError(104, "Connection reset by peer")
    except ConnectionResetError:
        sys.excepthook(*sys.exc_info())
    assert capsys.readouterr().err == ""
