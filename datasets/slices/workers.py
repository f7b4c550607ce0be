"""Slice cases in this process, in worker processes, or on a Dask cluster."""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection, get_context, parent_process
from pathlib import Path

from datasets.findings import Finding
from datasets.slices.slicing import Job, Outcome, slice_case


def run(jobs: list[Job], workers: int | None, scheduler: str | None) -> Iterator[Outcome]:
    """Run the cases, the largest files first so that the workers finish together. workers: None for one per core."""
    jobs = sorted(jobs, key=_size, reverse=True)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(workers or cores, len(jobs))
    if scheduler:
        yield from run_on_dask(jobs, scheduler)
    elif workers <= 1:
        yield from map(slice_case, jobs)
    else:
        yield from run_in_processes(jobs, workers)


def _size(job: Job) -> int:
    try:
        return job.case.image.stat().st_size
    except OSError:  # a finding, once it is its turn
        return 0


def run_in_processes(jobs: list[Job], workers: int, work: Callable[[Job], Outcome] = slice_case) -> Iterator[Outcome]:
    """Run the cases in worker processes. A killed worker breaks the pool: what is left then runs one case at a time, in
    a process of its own each, so that only the case that kills it is lost."""
    context, left = get_context("spawn"), []
    with ProcessPoolExecutor(workers, mp_context=context, initializer=end_with_parent) as pool:
        futures = {pool.submit(work, job): job for job in jobs}
        try:
            for future in as_completed(futures):
                try:
                    yield future.result()
                except BrokenProcessPool:
                    left.append(futures[future])
        except BaseException:
            pool.shutdown(cancel_futures=True)  # the store is held until the last worker has ended
            raise
    for job in left:
        with ProcessPoolExecutor(1, mp_context=context, initializer=end_with_parent) as pool:
            try:
                yield pool.submit(work, job).result()
            except BrokenProcessPool:
                what = "its worker was killed (out of memory?)"
                finding = Finding(job.case.image, what, "free memory, or use a machine with more")
                yield Outcome(job.case.case, findings=[finding])


def end_with_parent() -> None:
    """Let this worker end at once when its parent is killed: it would write beside the next run."""

    def watch() -> None:
        connection.wait([parent_process().sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def run_on_dask(jobs: list[Job], address: str) -> Iterator[Outcome]:
    """Run the cases on the workers of a Dask scheduler; they see IN, OUT and this project under the same paths."""
    try:
        from dask.distributed import Client, as_completed
    except ImportError:
        raise ValueError(f"--scheduler {address}: Dask is not installed: pip install distributed") from None
    try:
        client = Client(address, timeout="10s")
    except (OSError, ValueError) as error:
        raise ValueError(
            f"--scheduler {address}: no scheduler answers ({error}): start it with `dask scheduler`"
        ) from None
    with client:
        client.run(lambda path: sys.path.insert(0, path), str(Path(__file__).resolve().parents[2]))
        for future in as_completed(client.map(slice_case, jobs, pure=False)):
            yield future.result()
