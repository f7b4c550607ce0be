"""The benchmark of a GPU, on a CPU: every part is measured, and what fails or is late is named."""

import json
import runpy
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from datetime import datetime
from io import StringIO
from types import SimpleNamespace

import pytest
import torch

from datasets.slices.dataset import SliceDataset
from scripts.benchmarks import benchmark, gpu, gpu_steps
from scripts.benchmarks.gpu_bench import ON_CPU, Bench, Size
from scripts.benchmarks.gpu_runs import course, together
from scripts.benchmarks.gpu_use import Watched
from scripts.benchmarks.noise_store import write_noise_store
from scripts.benchmarks.operators import operators
from utils.training.tracking import RATE, Tracker

PARTS = ["limits", "stores", "steps", "pipeline", "trainings", "small_images", "prediction", "side_by_side", "compiled"]


@pytest.fixture(autouse=True)
def _without_collecting(monkeypatch):
    """To look through all that the other tests left takes seconds."""
    monkeypatch.setattr(gpu, "free_memory", lambda: None)


def in_this_process(command, **_):
    """Runs a program of this repository; starting Python anew would take most of the time."""
    _, *words = map(str, command)
    module, words = (words[1], words[2:]) if words[0] == "-m" else (None, words[1:])
    told, status, before = StringIO(), 0, sys.argv
    sys.argv = [str(command[1]), *words]
    try:
        with redirect_stdout(told), redirect_stderr(told):
            if module is None:
                runpy.run_path(str(command[1]), run_name="__main__")
            else:
                runpy.run_module(module, run_name="__main__")
    except SystemExit as end:
        status = int(end.code or 0)
    finally:
        sys.argv = before
    return subprocess.CompletedProcess(command, status, told.getvalue(), told.getvalue())


class Ended:
    """A program that was started, and has ended by then."""

    def __init__(self, command, **_):
        self.returncode = in_this_process(command).returncode

    def poll(self):
        return self.returncode


def test_every_part_is_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(subprocess, "run", in_this_process)
    monkeypatch.setattr("utils.leaderboard.execution.subprocess.Popen", Ended)
    monkeypatch.setattr(gpu, "compiled", compiled := lambda _bench: [{"step": "compiled", "ms": 1.0}])
    compiled.__name__ = "compiled"  # a compiler takes minutes
    assert benchmark.main(["gpu", "--threads", "1", "--output", str(tmp_path / "gpu.json")]) == 0
    found, said = json.loads((tmp_path / "gpu.json").read_text()), capsys.readouterr().out
    assert found["left_out"] == []
    assert list(found["parts"]) == PARTS
    assert [row["run"] for row in found["parts"]["trainings"]] == [
        "train.py kits19_teacher",
        "train_kd.py kits19_student",
    ]
    student, launched = found["parts"]["trainings"][1], found["parts"]["steps"][3]
    assert student["share of the step's speed"] == student["images/s"] / launched["images/s"]
    assert [row["split in memory of"] for row in found["parts"]["pipeline"]] == ["host", "host"]
    rates = [
        row["images/s"] for part in ("steps", "pipeline", "trainings", "small_images") for row in found["parts"][part]
    ]
    assert len(rates) == 9
    assert all(rate > 0 for rate in rates)
    assert [row["trainings"] for row in found["parts"]["side_by_side"]] == [1]
    assert found["parts"]["side_by_side"][0]["images/s of all"] > 0
    assert [row["network"] for row in found["parts"]["prediction"]] == ["teacher", "student"]
    assert all(part in said for part in PARTS)


@pytest.mark.parametrize(("minutes", "why"), [("0", "0 minutes were over"), ("1", "no store here")])
def test_what_is_late_or_fails_is_named(monkeypatch, capsys, minutes, why):
    def fail(_bench):
        raise ValueError("no store here")

    for part in PARTS:
        monkeypatch.setattr(gpu, part, fail)
    assert benchmark.main(["gpu", "--threads", "1", "--minutes", minutes]) == 0
    assert capsys.readouterr().out.count(why) == len(PARTS)


def test_the_host_holds_a_split_that_would_fit_on_the_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (2**40, 2**40))
    write_noise_store(tmp_path / "store", (1, 1, 1), 3, 64)
    device, cpu = torch.device("meta"), torch.device("cpu")
    assert SliceDataset(tmp_path / "store", "train", crop=32).hold(device)
    dataset = SliceDataset(tmp_path / "store", "train", crop=32, **gpu_steps.IN_HOST_MEMORY)
    assert (dataset.hold(device), dataset.hold(cpu), len(dataset)) == (False, True, 3)


def write_training(folder, monkeypatch, reports, began=1000.0):
    """A run's events: each report is (seconds after `began`, number of the step, images/s since the one before)."""
    clock = iter([began, began, began] + [began + after for after, *_ in reports])
    monkeypatch.setattr("utils.training.tracking.time", SimpleNamespace(time=lambda: next(clock)))
    folder.mkdir()
    tracker = Tracker(folder, active=True)
    for _, step, rate in reports:
        tracker.scalars({RATE: rate}, step)
    tracker.close()
    return folder


# Two epochs of four steps of 8 images. The second epoch's steps take 2 s; 3 s of validation and saving precede them.
REPORTS = [(20, 0, 0.4), (21, 3, 24.0), (25, 5, 16.0), (26, 7, 16.0)]


def test_a_training_is_timed_with_all_that_it_does(tmp_path, monkeypatch):
    taken = course(write_training(tmp_path / "run", monkeypatch, REPORTS), batch_size=8, epochs=2)
    assert taken.speeds == pytest.approx({"images/s": 4 * 8 / 5, "images/s of the steps": 4 * 8 / 2})
    with pytest.raises(ValueError, match="only one epoch"):
        course(write_training(tmp_path / "short", monkeypatch, REPORTS[:2]), batch_size=8, epochs=1)


def test_trainings_at_once_count_while_all_of_them_train(tmp_path, monkeypatch):
    runs = [write_training(tmp_path / str(late), monkeypatch, REPORTS, 1000.0 + late) for late in (0, 3)]
    speed, begin, end = together([course(run, batch_size=8, epochs=2) for run in runs])
    assert (begin, end) == (1024, 1026)  # the second one's first epoch ends; the first one's training ends
    assert speed == pytest.approx((16 / 4 * 1 + 16 + 16 / 4 * 2) / 2)
    apart = [write_training(tmp_path / str(late), monkeypatch, REPORTS, 1000.0 + late) for late in (10, 16)]
    with pytest.raises(ValueError, match="did not overlap"):
        together([course(run, batch_size=8, epochs=2) for run in apart])


def test_a_gpu_that_stalls_is_seen():
    watched = Watched()
    watched.samples = []
    watched.read(f"2026/01/02 03:04:{second:02}.500, {use}, {memory}\n" for second, use, memory in SAMPLES)
    began = datetime(2026, 1, 2, 3, 4, 2).timestamp()
    assert watched.found(began, began + 4) == {"GPU %": 75.0, "memory GB": 3.0}
    assert watched.found(began + 100, began + 101) == {}


SAMPLES = [(1, 0, 3072), (2, 100, 1024), (3, 100, 1024), (4, 0, 1024), (5, 100, 1024), (6, 0, 1024)]


def bench_with(tmp_path, seconds):
    return Bench(torch.device("cpu"), ON_CPU, time.monotonic() + seconds, tmp_path)


def test_a_part_that_takes_too_long_is_ended(tmp_path, monkeypatch):
    def slow(_bench):
        yield {"step": "first"}
        time.sleep(20)

    monkeypatch.setattr(gpu, "LEAST_S", 0)
    bench, handler = bench_with(tmp_path, 0.2), signal.getsignal(signal.SIGALRM)
    gpu.take(bench, slow, "the time was over")
    assert bench.rows == {"slow": [{"step": "first"}]}
    assert bench.left_out == ["slow: the time was over"]
    assert (signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)) == (handler, (0, 0))


def test_what_is_not_compiled_is_named(tmp_path, monkeypatch):
    def compiled(bench, count):
        if count == 16:
            raise RuntimeError("no compiler")
        bench.deadline = 0
        return {"images": count}

    monkeypatch.setattr(gpu_steps, "_compiled", compiled)
    bench = bench_with(tmp_path, 100)
    bench.size = Size()
    assert list(gpu_steps.compiled(bench)) == [{"images": 4}]
    assert bench.left_out == ["compiled, 16 images: no compiler", "compiled, 64 images: the time was over"]


def test_operators_are_counted():
    weight = torch.ones(3, requires_grad=True)
    assert operators(lambda: weight.view(3, 1).T) == 0
    assert operators(lambda: torch.empty(3)) == 0
    assert operators(lambda: weight.exp()) == 1
    assert operators(lambda: weight.exp().sum().backward()) == 4  # exp, sum, ones, and the product of the gradient
