"""Commands that run one after the other, each in a process of its own, from the first that is not done."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from utils.recipe.schema import ROOT


@dataclass(frozen=True)
class Stage:
    """A command, from the repository's root on, and what is missing of all that it writes.

    lacks: in words; empty once nothing is. fine: the exit statuses after which the next stage can begin.
    """

    name: str
    command: list[str]
    lacks: Callable[[], str]
    fine: tuple[int, ...] = (0,)


def run_stages(stages: Iterable[Stage], who: str) -> int:
    """Run the stages that are not done, each printed as a person would run it.

    Returns the status of one that fails, else 0. who: the command that runs them, for what it prints.
    """
    for number, stage in enumerate(stages, start=1):
        line = shlex.join(["python", *stage.command])
        if not stage.lacks():
            print(f"{number} {stage.name}: done before: {line}", flush=True)
            continue
        print(f"{number} {stage.name}: {line}", flush=True)
        status = run_stage(stage)
        lacks = stage.lacks()
        if status not in stage.fine or lacks:
            why = f" ({lacks})" if lacks else ""
            print(f"{who}: {stage.name} ended with status {status}{why}; the same command goes on from here")
            return status or 1
    return 0


def run_stage(stage: Stage) -> int:
    """Run the command of a stage in a process of its own; what stops this one stops that one first."""
    process = subprocess.Popen([sys.executable, str(ROOT / stage.command[0]), *stage.command[1:]])

    def stop(*_: object) -> None:
        process.terminate()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        return process.wait()
    except KeyboardInterrupt:  # Ctrl-C reaches both
        process.wait()
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
