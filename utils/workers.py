"""The one way to run many jobs: in this process, in worker processes, or on a Dask cluster.

A batch goes on past a bad job: what a job raises, or that its worker was killed, becomes its result.
"""

from __future__ import annotations

import os
import pickle
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import islice
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from distributed import Client

Job = TypeVar("Job")
Result = TypeVar("Result")
Failed = Callable[[Job, Exception], Result]


class WorkerDiedError(Exception):
    """The process that ran a job was killed."""


def run(
    work: Callable[[Job], Result],
    jobs: Iterable[Job],
    failed: Failed[Job, Result],
    workers: int = 1,
    scheduler: str | None = None,
) -> Iterator[Result]:
    """Yield the results of `work(job)` as they finish.

    Args:
        work: Can be pickled, like the jobs and their results, unless all run in this process.
        jobs: Drawn as they are needed, no more than one beyond the workers.
        failed: Makes the result of a job that raised an exception, or whose worker was killed (`WorkerDiedError`).
        workers: Processes; with 1 the jobs run in this one.
        scheduler: Address of a Dask scheduler, whose workers run the jobs instead. They see this project and the data
            under the same paths.

    Raises ValueError where Dask is not installed, or no scheduler answers.
    """
    if scheduler:
        return _on_cluster(work, jobs, failed, scheduler)
    if workers > 1:
        pool = _pool(workers)
        pool.submit(os.getpid)  # it starts them, before a progress bar starts a thread
        return _in_processes(pool, work, jobs, failed, workers)
    return (_result(lambda job=job: work(job), job, failed) for job in jobs)


def explain(error: Exception) -> tuple[str, str]:
    """What went wrong with a job, and what a person can do about it."""
    more = "free memory, use fewer --jobs, or a machine with more"
    if isinstance(error, WorkerDiedError):
        return "its worker was killed (out of memory?)", more
    if isinstance(error, MemoryError):
        return "out of memory", more
    what = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
    return what, "look at this case; if it is sound, report this"


def _portable(work: Callable[[Job], Result], job: Job) -> Result:
    """Do a job elsewhere. An exception that cannot travel back would look like a killed worker: its text goes."""
    try:
        return work(job)
    except Exception as error:
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            raise RuntimeError(f"{type(error).__name__}: {error}") from None
        raise


def _result(ask: Callable[[], Result], job: Job, failed: Failed[Job, Result]) -> Result:
    try:
        return ask()
    except BrokenProcessPool:
        return failed(job, WorkerDiedError())
    except Exception as error:
        return failed(job, WorkerDiedError() if type(error).__name__ == "KilledWorker" else error)


def _as_they_finish(
    submit: Callable[[Job], Future[Result]], jobs: Iterable[Job], ahead: Callable[[], int]
) -> Iterator[tuple[Job, Future[Result]]]:
    """Yield jobs with their ended futures; no more than `ahead` are underway."""
    upcoming = iter(jobs)
    running: dict[Future[Result], Job] = {}
    while True:
        for job in islice(upcoming, max(0, ahead() - len(running))):
            running[submit(job)] = job
        if not running:
            return
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            yield running.pop(future), future


def _in_processes(
    pool: Executor, work: Callable[[Job], Result], jobs: Iterable[Job], failed: Failed[Job, Result], workers: int
) -> Iterator[Result]:
    """Run in a pool. A killed worker breaks it: the jobs that were in it then run alone, so that only one is lost."""
    work = partial(_portable, work)

    def submit(job: Job) -> Future[Result]:
        nonlocal pool
        try:
            return pool.submit(work, job)
        except BrokenProcessPool:
            pool = _pool(workers)
            return pool.submit(work, job)

    try:
        for job, future in _as_they_finish(submit, jobs, lambda: workers + 1):
            if isinstance(future.exception(), BrokenProcessPool):
                with _pool(1) as alone:
                    future = alone.submit(work, job)
            yield _result(future.result, job, failed)
    finally:
        pool.shutdown(cancel_futures=True)  # waits: what the workers write is held by this process


def _pool(workers: int) -> Executor:
    return ProcessPoolExecutor(workers, mp_context=get_context(_start_method()), initializer=_end_with_parent)


def _start_method() -> str:
    """How workers are started: a copy of this process has its modules at once, a fresh interpreter imports them again.

    A copy would inherit the locks that threads hold; torch has threads that Python does not know of.
    """
    is_alone = threading.active_count() == 1 and "torch" not in sys.modules
    return "fork" if is_alone and sys.platform == "linux" else "spawn"


def _end_with_parent() -> None:
    """Let this worker end at once when its parent is killed: it would write beside the next run."""

    def watch() -> None:
        connection.wait([parent_process().sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _on_cluster(
    work: Callable[[Job], Result], jobs: Iterable[Job], failed: Failed[Job, Result], address: str
) -> Iterator[Result]:
    with connect(address) as client:
        executor = client.get_executor(pure=False)
        for job, future in _as_they_finish(
            lambda job: executor.submit(_portable, work, job), jobs, lambda: sum(client.nthreads().values()) + 1
        ):
            yield _result(future.result, job, failed)


def connect(address: str) -> Client:
    """A client of a Dask scheduler, whose workers find this project, also those that join later."""
    try:
        from distributed import Client, WorkerPlugin
    except ImportError:
        raise ValueError(f"--scheduler {address}: Dask is not installed: pip install distributed") from None
    project = str(Path(__file__).resolve().parents[1])

    class FindProject(WorkerPlugin):
        def setup(self, worker: object) -> None:
            sys.path.insert(0, project)

    try:
        client = Client(address, timeout="10s")
    except (OSError, ValueError) as error:
        what = f"no scheduler answers ({error})"
        raise ValueError(f"--scheduler {address}: {what}: start it with `dask scheduler`") from None
    client.register_plugin(FindProject())
    return client
