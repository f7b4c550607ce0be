"""Runs trainings side by side: what is done stays, what was interrupted goes on, what fails stops no other."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import time
from bisect import insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from datasets.slices.store import write_json
from utils.leaderboard.identity import difference
from utils.leaderboard.plan import PlannedRun
from utils.machine import cores

RECORD, LOG = "leaderboard.json", "log.txt"
POLL_S = 0.2

Fingerprint = Callable[[PlannedRun], dict[str, Any]]


@dataclass(frozen=True)
class Finished:
    """What became of a run: seconds it took (0 where it was there already), and what was wrong with it, in one line."""

    run: PlannedRun
    seconds: float
    problem: str | None = None


@dataclass
class Slots:
    """Places for runs: `jobs` at once, which share out the CPU's cores, and `gpus` in turn where there are any."""

    jobs: int = 1
    gpus: Sequence[str] = ()
    free: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.free = list(range(self.jobs))

    def take(self) -> int:
        """The first free place; in this order each GPU has one run before any has two."""
        return self.free.pop(0)

    def give_back(self, slot: int) -> None:
        insort(self.free, slot)

    def environment(self, slot: int) -> dict[str, str]:
        """What a run in this place sees: its share of the cores unless OMP_NUM_THREADS is set, and one GPU."""
        threads = max(1, cores() // self.jobs)
        gpu = {"CUDA_VISIBLE_DEVICES": self.gpus[slot % len(self.gpus)]} if self.gpus else {}
        return {"OMP_NUM_THREADS": str(threads)} | dict(os.environ) | gpu


def execute(
    runs: Sequence[PlannedRun], fingerprint: Fingerprint, slots: Slots, report: Callable[[Finished], Any]
) -> list[Finished]:
    """Run what is not done yet, and report each as it ends.

    An interruption (or any error here) is passed on to the trainings, which save; they are waited for, and it goes on.
    """
    ended: list[Finished] = []

    def end(finished: Finished) -> None:
        ended.append(finished)
        report(finished)

    waiting = list(runs)
    active: dict[int, tuple[PlannedRun, subprocess.Popen, float]] = {}
    try:
        while waiting or active:
            while waiting and slots.free:
                run = waiting.pop(0)
                try:
                    started = _start(run, fingerprint(run), slots.environment(slots.free[0]))
                except (ValueError, OSError) as error:
                    end(Finished(run, 0.0, " ".join(str(error).split())))
                    continue
                if started is None:
                    end(Finished(run, 0.0))
                    continue
                active[slots.take()] = (run, started, time.monotonic())
            for slot, (run, process, began) in list(active.items()):
                if process.poll() is not None:
                    del active[slot]
                    slots.give_back(slot)
                    end(_end(run, process.returncode, time.monotonic() - began))
            time.sleep(POLL_S if active else 0)
    except BaseException:
        for _, process, _ in active.values():
            process.send_signal(signal.SIGTERM)
        for _, process, _ in active.values():
            process.wait()
        raise
    return ended


def _start(run: PlannedRun, identity: dict[str, Any], environment: dict[str, str]) -> subprocess.Popen | None:
    """Start or resume a run; None where it is done.

    Raises ValueError where its folder holds another run, or where another process trains this one.
    """
    record = run.folder / RECORD
    command = run.command
    if record.is_file():
        known = read_record(record)
        if changed := difference(known["identity"], identity):
            raise ValueError(f"{run.folder}: was made with another {changed}: delete it, or give another output")
        if known["done"]:
            return None
        command.append("--resume")
    elif run.folder.exists() and {file.name for file in run.folder.iterdir()} - {LOG}:
        raise ValueError(f"{run.folder}: is there but not from a leaderboard: delete it, or give another output")
    run.folder.mkdir(parents=True, exist_ok=True)
    with (run.folder / LOG).open("a") as log:
        _hold(log, run.folder)
        write_json(record, {"identity": identity, "done": False})
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)


def _hold(log: TextIO, folder: Path) -> None:
    """Lock the log: the training has it open as long as it lives, also when the leaderboard that started it is gone."""
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(f"{folder}: another process trains this run: wait for it, or stop it") from None
    except OSError:
        pass  # a file system that cannot


def _end(run: PlannedRun, status: int, seconds: float) -> Finished:
    if status == 0:
        record = run.folder / RECORD
        write_json(record, read_record(record) | {"done": True})
        return Finished(run, seconds)
    ending = f"exit status {status}"
    if status < 0:
        name = signal.Signals(-status).name
        ending = f"killed by {name}{' (out of memory?)' if name == 'SIGKILL' else ''}"
    return Finished(run, seconds, f"{ending}: {last_line(run.folder / LOG)}")


def read_record(file: Path) -> dict[str, Any]:
    """What a run was made by, and whether it is done. Raises ValueError where the file is damaged."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return {"identity": dict(content["identity"]), "done": bool(content["done"])}
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError(f"{file}: is damaged: delete its folder, and the run is made again") from None


def last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
