"""A folder of predictions: the files of each case, there whole or not at all, and predictions.json about them."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from datasets.store import write_json
from utils.prediction.inputs import Case
from utils.prediction.predictor import Clock

RECORD = "predictions.json"
LABELS, PROBABILITIES, SERIES = ".nii.gz", "_probabilities.nii.gz", ".mha"


class Predictions:
    """What lies in `folder` and what made it; threads may publish at once.

    Args:
        folder: Exists, and is this process's alone.
        cases: Their files are never written over.
        suffixes: Of the files that each case gets; `.mha` is for cases that are folders only.
        made_by: What a case's files depend on besides its image: `checkpoints` and `options`, as plain values.
        overwrite: Replace what other checkpoints, other options or another program made.

    Raises ValueError where an output would be an input or another case's output, and for a damaged predictions.json.
    """

    def __init__(
        self, folder: Path, cases: Sequence[Case], suffixes: Sequence[str], made_by: dict[str, Any], overwrite: bool
    ) -> None:
        self.folder, self.suffixes, self.made_by, self.overwrite = folder, suffixes, made_by, overwrite
        inputs = {os.path.realpath(case.path) for case in cases}  # Path.resolve fails where links go round in circles
        outputs: set[str] = set()
        for path in (os.path.realpath(path) for case in cases for path in self.files(case).values()):
            if path in inputs:
                raise ValueError(f"{path}: is an input, its prediction would replace it: choose another --output")
            if path in outputs:
                raise ValueError(f"{path}: two cases would be written to it: rename one, or give a CSV with names")
            outputs.add(path)
        self._lock = threading.Lock()
        self.entries = _read(folder / RECORD)

    def files(self, case: Case) -> dict[str, Path]:
        """The files of a case by suffix."""
        suffixes = [suffix for suffix in self.suffixes if suffix != SERIES or case.path.is_dir()]
        return {suffix: self.folder / f"{case.name}{suffix}" for suffix in suffixes}

    def kept(self, case: Case) -> bool:
        """Whether the case's files are there, made from the same image by the same checkpoints and options.

        Raises ValueError where something else made them and they must not be overwritten.
        """
        files = self.files(case).values()
        present = [path for path in files if path.exists()]
        if self.overwrite or not present:
            return False
        entry = self.entries.get(case.name, {})
        now = {**self.made_by, "source": fingerprint(case.path)}
        changed = [key for key, value in now.items() if entry.get(key) != value]
        if not changed:
            return len(present) == len(files)
        why = f"other {' and '.join(changed)}" if entry else "another program"
        raise ValueError(f"{present[0]}: is there, made by {why}: choose another --output, or pass --overwrite")

    def publish(
        self, case: Case, entry: dict[str, Any], write: dict[str, Callable[[Path], None]], clock: Clock
    ) -> None:
        """Write a case's files (one function a suffix) beside their places, record them and the times, rename them."""
        files = self.files(case)
        partial = {suffix: file.with_name(f".partial-{file.name}") for suffix, file in files.items()}
        try:
            with clock("write"):
                for suffix, path in partial.items():
                    path.unlink(missing_ok=True)  # of an interrupted run
                    write[suffix](path)
            entry["seconds"] = {stage: round(seconds, 6) for stage, seconds in clock.seconds.items()}
            with self._lock:
                self.kept(case)  # raises when somebody has put a file there meanwhile
                for file in files.values():
                    file.unlink(missing_ok=True)  # never an old file beside a new record
                self.entries[case.name] = {"source": fingerprint(case.path), **self.made_by, **entry}
                write_json(self.folder / RECORD, {"cases": dict(sorted(self.entries.items()))})
                for suffix, path in partial.items():
                    path.replace(files[suffix])
        finally:
            for path in partial.values():
                path.unlink(missing_ok=True)


def fingerprint(path: Path) -> dict[str, Any]:
    """Name, size and time of modification of a file, or of all files in a folder."""
    status = [file.stat() for file in (path.iterdir() if path.is_dir() else [path]) if file.is_file()]
    return {
        "file": path.name,
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
