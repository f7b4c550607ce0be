"""A folder of predictions: the files of each case, there whole or not at all, and predictions.json about them."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from datasets.files import ending
from datasets.slices.store import write_json
from datasets.volumes.scans import RECORD, Case
from utils.prediction.predictor import Clock

NAME_BYTES = 255  # the longest name of a file
LABELS, PROBABILITIES, SERIES = ".nii.gz", "_probabilities.nii.gz", ".mha"


class Predictions:
    """What lies in `folder` and what made it; threads may publish at once.

    Args:
        folder: Exists, and is this process's alone.
        cases: Their files are never written over.
        suffixes: Of the files that each case gets; `.mha` is for DICOM series only.
        made_by: What a case's files depend on besides its image: `checkpoints` and `options`, as plain values.
        overwrite: Replace what other checkpoints, other options or another program made.

    Raises ValueError where an output would be an input or another case's output, and for a damaged predictions.json.
    """

    def __init__(
        self, folder: Path, cases: Sequence[Case], suffixes: Sequence[str], made_by: dict[str, Any], overwrite: bool
    ) -> None:
        self.folder, self.suffixes, self.made_by, self.overwrite = folder, suffixes, made_by, overwrite
        inputs = {identity for case in cases for file in case.files if (identity := _identity(file))}
        outputs: set[str] = set()
        for path in (path for case in cases for path in self.files(case).values()):
            if _identity(path) in inputs:  # by whatever link or spelling
                raise ValueError(f"{path}: is an input, its prediction would replace it: choose another --output")
            place = os.path.realpath(path)  # Path.resolve fails where links go round in circles
            if place in outputs:
                raise ValueError(f"{path}: two cases would be written to it: rename one, or give a CSV with names")
            outputs.add(place)
        self._lock = threading.Lock()
        self.entries = _read(folder / RECORD)

    def files(self, case: Case) -> dict[str, Path]:
        """The files of a case by suffix."""
        suffixes = [suffix for suffix in self.suffixes if suffix != SERIES or case.series is not None]
        return {suffix: self.folder / f"{case.name}{suffix}" for suffix in suffixes}

    def kept(self, case: Case) -> bool:
        """Whether the case's files are there, made from the same image by the same checkpoints and options.

        Raises ValueError where something else made them and they must not be overwritten.
        """
        files = self.files(case)
        present = [suffix for suffix, path in files.items() if os.path.lexists(path)]
        if self.overwrite or not present:
            return False
        entry = self.entries.get(case.name, {})
        changed = self._changed(case, entry)
        strange = [suffix for suffix in present if suffix not in entry.get("files", present)]
        if not changed and not strange:
            return len(present) == len(files) and not entry.get("pending")
        why = f"other {' and '.join(changed)}" if entry and changed else "another program"
        remedy = "choose another --output, or pass --overwrite"
        raise ValueError(f"{files[(strange or present)[0]]}: is there, made by {why}: {remedy}")

    def _changed(self, case: Case, entry: dict[str, Any]) -> list[str]:
        """What the record of a case says otherwise than what would be written now."""
        now = {**self.made_by, "source": fingerprint(case)}
        return [key for key, value in now.items() if entry.get(key) != value]

    def publish(
        self, case: Case, entry: dict[str, Any], write: dict[str, Callable[[Path], None]], clock: Clock
    ) -> None:
        """Write a case's files (one function a suffix) beside their places, record them and the times, rename them.

        The record comes first, so that no file is ever there without one. While files are replaced it says that they
        are pending: until then, and after a kill in between, nobody can know which of them are old.
        """
        files = self.files(case)
        partial = {suffix: _partial(file) for suffix, file in files.items()}
        try:
            with clock("write"):
                for suffix, path in partial.items():
                    path.unlink(missing_ok=True)  # of an interrupted run
                    with _about(files[suffix]):
                        write[suffix](path)
            entry["seconds"] = {stage: round(seconds, 6) for stage, seconds in clock.seconds.items()}
            with self._lock:
                self.kept(case)  # raises when somebody has put a file there meanwhile
                before = self.entries.get(case.name, {})
                others = [] if not before or self._changed(case, before) else before.get("files", [])
                made = {"source": fingerprint(case), **self.made_by, "files": sorted({*files, *others})}
                if any(os.path.lexists(path) for path in files.values()):
                    self._record(case, {**made, **entry, "pending": True})
                else:
                    self._record(case, {**made, **entry})
                try:
                    for suffix, path in partial.items():
                        with _about(files[suffix]):
                            path.replace(files[suffix])
                except OSError:  # a folder is in the place, or the name is too long
                    self._record(case, {**made, **entry, "pending": True})
                    raise
                if self.entries[case.name].get("pending"):
                    self._record(case, {**made, **entry})
        finally:
            for path in partial.values():
                path.unlink(missing_ok=True)

    def _record(self, case: Case, entry: dict[str, Any]) -> None:
        entries = {**self.entries, case.name: entry}
        write_json(self.folder / RECORD, {"cases": dict(sorted(entries.items()))})
        self.entries = entries


@contextmanager
def _about(file: Path) -> Iterator[None]:
    """An error of the operating system is about this file, not about the name that it had while it was written."""
    try:
        yield
    except OSError as error:
        error.filename = str(file)
        raise


def _partial(file: Path) -> Path:
    """The name under which a file is written; a digest where a name cannot become longer."""
    name = f".partial-{file.name}"
    if len(os.fsencode(name)) > NAME_BYTES:
        digest = hashlib.sha256(os.fsencode(file.name)).hexdigest()[:32]
        name = f".partial-{digest}{ending(file)}"
    return file.with_name(name)


def _identity(file: Path) -> tuple[int, int] | None:
    """The same for all names and links that lead to one file; None where there is none."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def fingerprint(case: Case) -> dict[str, Any]:
    """Name, number, size and time of modification of the files of a case."""
    status = [file.stat() for file in case.files]
    return {
        "file": case.path.name,
        "files": len(status),
        "size": sum(each.st_size for each in status),
        "mtime_ns": max((each.st_mtime_ns for each in status), default=0),
    }


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        cases = json.loads(path.read_text())["cases"]
        if not all(isinstance(entry, dict) for entry in cases.values()):
            raise TypeError
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: is damaged ({type(error).__name__}): choose another --output") from None
    return cases
