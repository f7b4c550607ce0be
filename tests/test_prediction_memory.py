"""predict.py in bounded memory: one volume, and cases that are read ahead and written behind."""

import os
import threading
import time
import tracemalloc

import numpy as np
import pytest
from raw_cases import save
from tiny_checkpoints import folder, predict, thresholds, voxels

from datasets.volumes.geometry import orient
from utils import machine
from utils.prediction.read_ahead import run_ahead

__all__ = ["folder", "thresholds"]  # fixtures


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_memory_is_the_volume_its_labels_and_a_few_slices(tmp_path, thresholds, order):
    shape = tuple(np.array((300, 160, 160))[list(order)])
    affine = np.zeros((4, 4))
    affine[[2, 1, 0], list(np.argsort(order))] = affine[3, 3] = 1
    save(tmp_path / "a.nii", np.full(shape, 100, np.int16), affine)
    assert orient(affine)[0][0] == order.index(0)
    assert predict(thresholds, tmp_path / "a.nii", tmp_path / "first") == 0  # modules imported late are not counted
    tracemalloc.start()
    assert predict(thresholds, tmp_path / "a.nii", tmp_path / "out") == 0
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    voxel_count = 300 * 160 * 160
    assert (voxels(tmp_path / "out/a.nii.gz") == 1).all()
    assert peak < voxel_count * (2 + 1) + 20e6  # int16, uint8, and blocks that do not grow with the volume


def test_more_memory_than_allowed_is_refused_before_anything_is_read(folder, tmp_path, thresholds, capsys):
    assert predict(thresholds, folder, tmp_path / "out", "--memory", "0.000002") == 1  # 720 voxels take 3 bytes each
    assert "--memory allows" in capsys.readouterr().err
    assert predict(thresholds, folder, tmp_path / "out", "--memory", "0.000003") == 0


def test_the_limit_is_half_of_the_container(tmp_path, monkeypatch):
    half_of_all = machine.memory_limit()
    monkeypatch.setattr(machine, "CONTAINER", tmp_path / "memory.max")
    for text, limit in (("1000000\n", 500_000), ("max\n", memory_of_machine() / 2)):
        (tmp_path / "memory.max").write_text(text)
        assert machine.memory_limit() == limit
    assert half_of_all <= memory_of_machine() / 2


def test_the_cores_are_those_of_the_container(tmp_path, monkeypatch):
    bound = machine.cores()
    monkeypatch.setattr(machine, "QUOTA", tmp_path / "cpu.max")
    for text, wanted in (("50000 100000\n", 1), ("150000 100000\n", min(bound, 2)), ("max 100000\n", bound)):
        (tmp_path / "cpu.max").write_text(text)
        assert machine.cores() == wanted


def memory_of_machine() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def steps(log, size=1, fail=None):
    """Steps of `run_ahead` on numbers that log what they do."""

    def step(name):
        def run(item):
            log.append((name, item))
            if (name, item) == fail:
                raise ValueError(f"{name} {item}")
            time.sleep(0.002)
            return item * 10

        return run

    opened = step("open")
    return lambda item: (opened(item) // 10, size), step("read"), step("work"), step("finish")


@pytest.mark.parametrize("jobs", [1, 3])
def test_every_case_takes_its_steps_in_order_whatever_fails(jobs):
    for fail in [("open", 2), ("read", 0), ("work", 5), ("finish", 4), None]:
        log = []
        outcomes = list(run_ahead(range(6), *steps(log, fail=fail), jobs, 100))
        assert sorted(item for item, _ in outcomes) == list(range(6))
        assert [item for item, result in outcomes if isinstance(result, Exception)] == ([fail[1]] if fail else [])
        assert all(result == item * 10 for item, result in outcomes if not isinstance(result, Exception))
        assert [item for name, item in log if name == "work"] == [
            n for n in range(6) if fail not in (("open", n), ("read", n))
        ]


@pytest.mark.parametrize(("size", "budget", "most"), [(10, 9, 1), (10, 29, 2), (10, 1000, 5)])
def test_no_more_is_read_ahead_than_the_budget_and_the_threads_allow(size, budget, most):
    log = []
    list(run_ahead(range(12), *steps(log, size), 2, budget))
    underway, highest = 0, 0
    for name, _ in log:
        underway += {"read": 1}.get(name, 0)
        highest = max(highest, underway)
        underway -= {"finish": 1}.get(name, 0)
    # two threads read ahead of the one at work, and two finish behind it
    assert highest <= most and (most == 1 or highest >= 2)


def test_the_next_case_is_read_while_one_is_worked_on():
    is_read = [threading.Event() for _ in range(3)]
    waited = []

    def work(item):
        waited.append(item == 2 or is_read[item + 1].wait(10))  # the next is read before this one's work ends

    list(run_ahead(range(3), lambda item: (item, 1), lambda item: is_read[item].set(), work, lambda item: item, 1, 100))
    assert waited == [True, True, True]
