"""Files and folders for every command: search a folder, write a file whole or not at all, hold a folder, keep apart."""

import errno
import fcntl
import os
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path

from datasets.findings import Finding

NIFTI_ENDINGS = (".nii.gz", ".nii")
NO_FILE = "kind (no regular file)"
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


def hidden(name: str) -> bool:
    """Whether a file or folder is there for its system only: a dot first, a Mac's zip, thumbnails of a NAS."""
    return name.startswith(".") or name in ("__MACOSX", "@eaDir")


class Scan:
    """The files below a folder, and all that was passed over with the reason.

    `files`: those neither taken nor passed over so far, in order. `findings`: closed folders, files that may not be
    read, and dead links, each bad; links back into what was read already, not bad. `passed`: what was passed over, by
    reason. `folders`: those that were read, `root` first. `closed`: those that could not be read.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files: list[Path] = []
        self.findings: list[Finding] = []
        self.folders: list[Path] = []
        self.closed: list[Path] = []
        self.passed: dict[str, list[Path]] = defaultdict(list)

    def keep(self, wanted: Callable[[Path], bool], why: str) -> list[Path]:
        """Keep the files that are wanted and return them; the others are passed over, with `why` as the reason."""
        kept = []
        for file in self.files:
            kept.append(file) if wanted(file) else self.pass_over(file, why)
        self.files = kept
        return kept

    def take(self, wanted: Callable[[Path], bool]) -> list[Path]:
        """Take the files that are wanted out of `files` and return them; they are not passed over."""
        taken = [file for file in self.files if wanted(file)]
        self.files = [file for file in self.files if not wanted(file)]
        return taken

    @property
    def unusable(self) -> list[Path]:
        """The files and folders with a bad finding: dead links, and what may not be read."""
        return [finding.file for finding in self.findings if finding.bad]

    def pass_over(self, path: Path, why: str) -> None:
        """Count one file or folder as passed over. why: what they have in common, such as `ending`."""
        self.passed[why].append(path)

    @property
    def bad(self) -> list[str]:
        """A line for each thing that should be read and cannot be."""
        return [str(finding) for finding in self.findings if finding.bad]

    @property
    def notes(self) -> list[str]:
        """Lines about what was passed over, of which nothing is wrong."""
        good = [str(finding) for finding in self.findings if not finding.bad]
        return [*good, *([self.summary] if self.summary else [])]

    @property
    def summary(self) -> str | None:
        """One line about what was passed over, or None: `passed over: 3 by ending (2 .txt, 1 .csv), ...`."""
        parts = []
        for why, paths in self.passed.items():
            detail = f"such as {paths[0].relative_to(self.root)}" if len(paths) > 1 else f"{paths[0].name}"
            if why == "ending":
                counts = Counter(ending(path) or "none" for path in paths).most_common()
                some = [f"{count} {name}" for name, count in counts[:4]]
                detail = ", ".join([*some, f"{len(counts) - 4} other endings"] if len(counts) > 4 else some)
            parts.append(f"{len(paths)} by {why} ({detail})")
        return f"{self.root}: passed over: {', '.join(parts)}" if parts else None


def scan(root: Path, depth: int | None = None) -> Scan:
    """List the files below a folder, in order; every command that looks for files does it with this.

    Links to folders are followed, and a folder is read once however many links lead to it: under its own path if it has
    one below `root`. Hidden names (`._a.nii.gz` from a Mac) are passed over, and so are folders more than `depth`
    levels down (0: only the files of `root` itself). A closed folder, a file that may not be read and a dead link are
    findings. Raises OSError when `root` itself cannot be read.
    """
    found = Scan(root)
    seen = {_identity(root)}
    real, linked = deque([(root, 0)]), deque()
    while real or linked:
        folder, level = (real or linked).popleft()
        if folder is not root and folder.is_symlink():
            identity = _identity(folder)
            if identity in seen:
                what, remedy = "leads to a folder that is read already", "nothing to do: its files are read once"
                found.findings.append(Finding(folder, what, remedy, bad=False))
                continue
            seen.add(identity)
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            if folder is root:
                raise
            found.findings.append(Finding(folder, f"cannot be read ({error.strerror})", remedy_of(error)))
            found.closed.append(folder)
            continue
        found.folders.append(folder)
        for entry in entries:
            path = Path(entry.path)
            if hidden(entry.name):
                found.pass_over(path, "hidden name")
            elif entry.is_symlink() and (problem := dead_link(path)):
                found.findings.append(problem)
            elif path.is_dir():
                if depth is not None and level >= depth:
                    found.pass_over(path, "depth")
                elif entry.is_symlink():
                    linked.append((path, level + 1))
                else:
                    seen.add(_identity(path))
                    real.append((path, level + 1))
            elif not path.is_file():
                found.pass_over(path, NO_FILE)
            elif not os.access(path, os.R_OK):
                what = f"cannot be read ({os.strerror(errno.EACCES)})"
                found.findings.append(Finding(path, what, REMEDIES[errno.EACCES]))
            else:
                found.files.append(path)
    found.files.sort()
    return found


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def dead_link(link: Path) -> Finding | None:
    """The finding about a link that leads nowhere; None where it leads somewhere."""
    try:
        link.stat()
    except OSError as error:
        if error.errno == errno.ENOENT:
            what = f"is a link to {link.readlink()}, which is not there"
            return Finding(link, what, "fetch its content (git annex get, datalad get), or remove the link")
        return Finding(link, f"is a link that cannot be followed ({error.strerror})", remedy_of(error))
    return None


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


def is_below(path: Path, folder: Path) -> bool:
    """Whether a path lies below a folder, under whatever name or link; the path itself need not be there."""
    return folder.exists() and _identity(folder) in _identities(path)


def _identities(path: Path) -> list[tuple[int, int]]:
    """Of a path and every folder above it, as far as they are there: links and bind mounts do not matter."""
    found = []
    for place in (path, *path.parents):
        with suppress(OSError):
            found.append(_identity(place))
    return found
