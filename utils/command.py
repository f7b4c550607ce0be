"""How every command reads its flags, what it shows on its way, and how it ends: an exit status, and one line on stderr
for what stopped it.
"""

import argparse
import gc
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from datasets.files import describe

Item = TypeVar("Item")


def make_parser(description: str) -> argparse.ArgumentParser:
    """A parser that prints the docstring of a script as it is written."""
    return argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


@contextmanager
def importing_torch() -> Iterator[None]:
    """Inside, torch and what needs it are imported without garbage collection, which takes a quarter of the time.

    What modules consist of stays as long as the process, half a million objects: they are not looked through later,
    either.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()


def check_numbers(args: argparse.Namespace, **least: float) -> None:
    """Raise ValueError for the first of these flags that is below its least value; one that was not given is None."""
    for name, lowest in least.items():
        value = getattr(args, name)
        if value is not None and not lowest <= value < float("inf"):
            raise ValueError(f"--{name} {value}: give {lowest} or more")


def with_bar(items: Iterable[Item], total: int, unit: str, what: str) -> Iterable[Item]:
    """The items, with a progress bar on a terminal. Nowhere else is tqdm imported, which takes as long as numpy."""
    if not sys.stderr.isatty():
        return items
    from tqdm import tqdm

    return tqdm(items, total=total, unit=unit, desc=what)


def say(line: str) -> None:
    """Prints a line, above the progress bar if there is one."""
    if "tqdm" in sys.modules:
        from tqdm import tqdm

        tqdm.write(line)
    else:
        print(line)


def run_command(
    name: str, work: Callable[[], int], interrupted: str = "interrupted; nothing was written", failed: int = 2
) -> int:
    """Run a command and return its exit status.

    A wrong value (ValueError), an error of the operating system and too little memory end in one line and `failed`;
    Ctrl-C in `interrupted` and 130. Names that are not UTF-8 are printed escaped, and never end a command. A reader
    that closes the pipe (`| head`) ends it silently with 141, as other programs end.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        status = work()
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the flush at exit fails again
        return 141
    except ValueError as error:
        return _end(name, str(error), failed)
    except OSError as error:
        return _end(name, describe(error), failed)
    except MemoryError:
        return _end(name, "out of memory: use a smaller batch, fewer jobs, or a machine with more", failed)
    except KeyboardInterrupt:
        print(f"{name}: {interrupted}", file=sys.stderr)
        return 130


def _end(name: str, what: str, failed: int) -> int:
    print(f"{name}: {' '.join(what.split())}", file=sys.stderr)
    return failed
