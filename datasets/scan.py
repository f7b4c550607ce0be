"""The files below a folder, and what was passed over with the reason: every command lists files with this."""

import errno
import os
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from pathlib import Path

from datasets.files import REMEDIES, ending, identity, remedy_of
from datasets.findings import Finding

NO_FILE = "kind (no regular file)"


def hidden(name: str) -> bool:
    """Whether a file or folder serves the system only: a leading dot, a Mac's zip, thumbnails of a NAS."""
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
    seen = {identity(root)}
    real, linked = deque([(root, 0)]), deque()
    while real or linked:
        folder, level = (real or linked).popleft()
        if folder is not root and folder.is_symlink():
            place = identity(folder)
            if place in seen:
                what, remedy = "leads to a folder that is read already", "nothing to do: its files are read once"
                found.findings.append(Finding(folder, what, remedy, bad=False))
                continue
            seen.add(place)
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
                    seen.add(identity(path))
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
