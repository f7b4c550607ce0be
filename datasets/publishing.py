"""Folders published whole by rename, and only in the place of folders that carry this program's own record."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

MOVE_IT = "move it away, or choose another folder to write to"


class NotOursError(ValueError):
    """Files of another program lie where a folder is to be published; nothing was changed."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(f"{path}: {what}: {MOVE_IT}")
        self.path, self.what, self.remedy = path, what, MOVE_IT


@dataclass(frozen=True)
class Kind:
    """How folders that this program made are recognized: the names of their files, and `marked(folder, name)`.

    A folder without a file needs no mark yet. record: the file that marks it, removed last.
    """

    names: re.Pattern[str]
    marked: Callable[[Path, str], bool]
    record: str

    def check(self, folder: Path, name: str) -> None:
        """Raise NotOursError unless the folder is absent or ours. name: of the published folder it belongs to."""
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            raise NotOursError(folder, "is not a folder that this program made")
        files = sorted(folder.iterdir()) if folder.is_dir() else []
        if files and not self.marked(folder, name):
            raise NotOursError(folder, "carries no record of this program")
        for file in files:
            if not self.names.fullmatch(file.name) or (file.is_dir() and not file.is_symlink()):
                raise NotOursError(file, "was not made by this program, and its folder would be replaced")

    def discard(self, folder: Path, name: str) -> None:
        """Remove a folder of ours, file by file; anything else stays."""
        self.check(folder, name)
        if folder.is_dir():
            for file in sorted(folder.iterdir(), key=lambda file: file.name == self.record):
                file.unlink()
            folder.rmdir()

    def recover(self, place: Path) -> None:
        """Undo what a killed run left of this folder: its earlier version comes back, half a new one goes."""
        partial, old = _beside(place)
        if old.is_dir() and not place.exists():
            self.check(old, place.name)
            old.rename(place)
        self.discard(old, place.name)
        self.discard(partial, place.name)

    @contextmanager
    def publishing(self, place: Path) -> Iterator[Path]:
        """Yield an empty folder beside `place` that takes its place when the block ends, and goes when it fails.

        Raises NotOursError, with nothing touched, where something else is there. An OSError without a path (a full
        disk), or about the folder yielded, gets this one.
        """
        self.recover(place)
        self.check(place, place.name)
        partial, old = _beside(place)
        try:
            partial.mkdir()
            yield partial
            if place.exists():
                place.rename(old)
            partial.rename(place)
        except BaseException as error:
            with suppress(OSError, NotOursError):
                self.recover(place)
            if isinstance(error, OSError) and Path(error.filename or partial).is_relative_to(partial):
                error.filename = str(place)
            raise
        self.discard(old, place.name)


def _beside(place: Path) -> tuple[Path, Path]:
    """Where a folder is while it is written, and where its earlier version goes while they change places."""
    return place.with_name(f".partial-{place.name}"), place.with_name(f".old-{place.name}")


def left_behind(root: Path) -> list[Path]:
    """Where a killed run left parts of folders in `root`."""
    names = {match[2] for path in root.iterdir() if (match := re.fullmatch(r"\.(partial|old)-(.+)", path.name))}
    return [root / name for name in sorted(names)]
