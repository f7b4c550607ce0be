"""Many jobs: in this process, in worker processes, on a Dask cluster."""

import os
import signal
import subprocess
import sys

import pytest

from utils.recipe.schema import ROOT
from utils.workers import WorkerDiedError, explain, run


def double(number: int) -> int:
    """Stands in for work: -1 is a bad job, and -2 ends its process, as a machine out of memory does."""
    if number == -2:
        os.kill(os.getpid(), signal.SIGKILL)
    if number == -1:
        raise KeyError("bad")
    return 2 * number


class OddError(Exception):
    """Cannot be unpickled: it is made of two values."""

    def __init__(self, file: str, what: str) -> None:
        super().__init__(f"{file} is {what}")


def odd(number: int) -> int:
    raise OddError("file.nii", "bad")


def failed(number: int, error: Exception) -> str:
    return f"{number} {type(error).__name__}"


@pytest.fixture(scope="module")
def scheduler():
    distributed = pytest.importorskip("distributed", reason="Dask is optional and not installed")
    flags = {"n_workers": 1, "processes": False, "dashboard_address": None, "protocol": "tcp"}
    with distributed.LocalCluster(**flags) as cluster:
        yield cluster.scheduler_address


def test_a_batch_goes_on_past_a_bad_job():
    assert list(run(double, [1, -1, 3], failed)) == [2, "-1 KeyError", 6]


def test_a_killed_worker_costs_its_own_job_only():
    results = list(run(double, [1, -2, 3, -1, 4], failed, workers=2))
    assert sorted(map(str, results)) == ["-1 KeyError", "-2 WorkerDiedError", "2", "6", "8"]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere every worker is a fresh interpreter")
def test_workers_are_copies_of_a_process_unless_it_has_threads():
    """A copy is there at once, and shows what was changed in a module; it would inherit the locks that threads hold."""
    code = (
        "import math, threading\n"
        "from functools import partial\n"
        "from utils.workers import run\n"
        "math.marked = 'copy'\n"
        "look = partial(eval, \"__import__('math').__dict__.get('marked', 'fresh')\")\n"
        "print(*run(look, [{}], lambda _, error: repr(error), workers=2))\n"
        "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "print(*run(look, [{}], lambda _, error: repr(error), workers=2))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["copy", "fresh"]


def test_an_exception_that_cannot_travel_is_not_taken_for_a_killed_worker():
    assert list(run(odd, [1], lambda _, error: str(error), workers=2)) == ["OddError: file.nii is bad"]


def test_a_dask_cluster_does_the_same(scheduler):
    assert sorted(map(str, run(double, [1, -1, 3], failed, scheduler=scheduler))) == ["-1 KeyError", "2", "6"]


@pytest.mark.parametrize("way", [{}, {"workers": 2}])
def test_jobs_are_drawn_as_they_are_needed(way):
    drawn, finished = [], []

    def jobs():
        for number in range(8):
            drawn.append(number)
            yield number

    for result in run(double, jobs(), failed, **way):
        finished.append(result)
        assert len(drawn) - len(finished) <= 3
    assert sorted(finished) == [0, 2, 4, 6, 8, 10, 12, 14]


def test_what_went_wrong_has_a_remedy():
    assert explain(WorkerDiedError())[0] == "its worker was killed (out of memory?)"
    assert explain(KeyError("bad")) == ("KeyError: 'bad'", "look at this case; if it is sound, report this")
