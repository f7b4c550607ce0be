"""The benchmark of a GPU, on a CPU: every part is measured, and what fails or is late is named."""

import json
import runpy
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO

import pytest

from scripts.benchmarks import benchmark, gpu

PARTS = ["limits", "stores", "steps", "pipeline", "trainings", "small_images", "prediction", "side_by_side", "compiled"]


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
    assert found["parts"]["trainings"][1]["share of the step's speed"] > 0
    rates = [
        row["images/s"] for part in ("steps", "pipeline", "trainings", "small_images") for row in found["parts"][part]
    ]
    assert len(rates) == 9
    assert all(rate > 0 for rate in rates)
    assert [row["trainings"] for row in found["parts"]["side_by_side"]] == [2]
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
