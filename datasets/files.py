"""Files and folders for every command: endings, errors, writing a file whole or not at all, holding a folder."""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path

NIFTI_ENDINGS = (".nii.gz", ".nii")
REMEDIES = {
    errno.ENOSPC: "free some disk space and run the command again",
    errno.EDQUOT: "free some of your disk quota and run the command again",
    errno.EACCES: "ask for the permission (chmod), or choose another place",
    errno.EPERM: "ask for the permission (chmod), or choose another place",
    errno.EROFS: "choose a place that can be written",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "a part of this path is a file: choose another place",
    errno.EEXIST: "a file is in its place: choose another place",
    errno.EISDIR: "a folder is in its place: choose another place",
    errno.ELOOP: "its links go round in circles: remove one of them",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EMFILE: "allow more open files (ulimit -n), or use fewer workers",
}


def ending(path: Path) -> str:
    """The ending of a file name in lower case, `.nii.gz` as one: `.NII.GZ` and `.nii.gz` are equal."""
    name = path.name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else Path(name).suffix


def stem(path: Path) -> str:
    """The name of a file without its ending, as `ending` has it."""
    return path.name[: len(path.name) - len(ending(path))]


def remedy_of(error: OSError) -> str:
    """What a person can do about an error of the operating system."""
    return REMEDIES.get(error.errno, "check the disk and the permissions")


def describe(error: OSError, place: Path | str | None = None) -> str:
    """An error of the operating system as one line: path, what, remedy. place: the path where the error names none."""
    path = error.filename if error.filename is not None else place
    return f"{path if path is not None else 'input or output'}: {error.strerror or error}: {remedy_of(error)}"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file whole or not at all: yields a name beside `path`, renamed to `path` when the block ends.

    When the block fails, what was written is removed and `path` stays as it was; an OSError without a path
    (a full disk) gets this one. The name is fixed, so that what a killed run left is replaced.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.unlink(missing_ok=True)
        yield partial
        partial.replace(path)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, str(partial)):
            error.filename = str(path)
        raise


def write_text(path: Path, text: str) -> None:
    """Replace a text file in one step. UTF-8; names that are not UTF-8 are written as the file system has them."""
    write_texts({path: text})


def write_texts(texts: Mapping[Path, str]) -> None:
    """Replace text files that belong together: all are written before the first is renamed."""
    with ExitStack() as stack:
        for path, text in texts.items():
            partial = stack.enter_context(replacing(path))
            partial.write_text(text, encoding="utf-8", errors="surrogateescape", newline="")


_HELD: set[int] = set()  # descriptors of folders that this process holds


@cache
def _let_go_in_children() -> None:
    """A forked process (a loader's worker) must not hold on to a folder when the one that forked it was killed."""

    def close_all() -> None:
        while _HELD:
            os.close(_HELD.pop())

    os.register_at_fork(after_in_child=close_all)


@contextmanager
def alone_in(folder: Path, shared: bool = False) -> Iterator[None]:
    """Make a folder and hold it for this process: two commands that write the same files would mix them.

    Where the block ends, or fails, with the folder made here and empty, it is removed again. shared: beside others that
    hold it so. Raises ValueError while another process holds it, and OSError where it cannot be written.
    """
    there = folder.is_dir()
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
    _let_go_in_children()
    descriptor = os.open(folder, os.O_RDONLY)
    _HELD.add(descriptor)
    try:
        if not _locked(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB):
            raise ValueError(
                f"{folder}: another command is writing to it: wait until it has ended, or choose another folder"
            )
        yield
    finally:
        if descriptor in _HELD:
            _HELD.remove(descriptor)
            os.close(descriptor)
        if not there:
            with suppress(OSError):
                folder.rmdir()  # fails where it holds something


@contextmanager
def holding(file: Path, wait: bool) -> Iterator[bool]:
    """Hold an empty file that stands for a part of a folder; yields whether it is held, and removes it at the end.

    wait: until the process that holds it has ended; without it, yields False while there is one.
    """
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        held = _locked(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        if not held or (file.exists() and file.stat().st_ino == os.fstat(descriptor).st_ino):
            break
        os.close(descriptor)  # its holder has removed it meanwhile
    try:
        yield held
    finally:
        if held and not os.fstat(descriptor).st_size:
            file.unlink(missing_ok=True)
        os.close(descriptor)


def _locked(descriptor: int, how: int) -> bool:
    try:
        fcntl.flock(descriptor, how)
    except BlockingIOError:
        return False
    except OSError:
        pass  # a file system without locks
    return True


def keep_apart(output: Path, inputs: Iterable[Path]) -> None:
    """Raise ValueError where a folder to write is an input, lies in one or holds one, under whatever name or link."""
    above_output = _identities(Path(os.path.realpath(output)))
    itself = above_output[:1] if output.exists() else []
    chains: dict[Path, list[tuple[int, int]]] = {}  # most files lie in few folders
    for path in inputs:
        real = Path(os.path.realpath(path))
        folder = real if real.is_dir() else real.parent
        if folder not in chains:
            chains[folder] = _identities(folder)
        above_input = chains[folder]
        if folder is real and itself == above_input[:1]:
            how = "is the input"
        elif itself and itself[0] in above_input:
            how = "holds the input"
        elif folder is real and above_input[0] in above_output:
            how = "lies in the input"
        else:
            continue
        raise ValueError(f"{output}: {how} {path}, which must not be written to: choose a folder apart from it")


def identity(path: Path) -> tuple[int, int]:
    """Device and inode of a file or folder, the same under every name and link."""
    status = path.stat()
    return status.st_dev, status.st_ino


def is_below(path: Path, folder: Path) -> bool:
    """Whether a path lies below a folder, under whatever name or link; the path itself need not be there."""
    return folder.exists() and identity(folder) in _identities(path)


def _identities(path: Path) -> list[tuple[int, int]]:
    """The identity of a path and of every folder above it that exists, whatever links or bind mounts lead there."""
    found = []
    for place in (path, *path.parents):
        with suppress(OSError):
            found.append(identity(place))
    return found


def refuse_full_disk(folder: Path, needed: int, what: str) -> None:
    """Raises ValueError where fewer bytes are free in a folder, or where it will be made, than `what` takes."""
    place = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise ValueError(
            f"{folder}: {what} take {needed / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free: free some disk space, or "
            "choose another folder"
        )
