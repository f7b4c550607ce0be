"""What was found wrong, or odd, in one file: one line that names the file, the fault and the remedy."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Finding:
    """One thing found in one file. A bad one keeps the case out; any other is only reported."""

    file: Path
    what: str
    remedy: str
    bad: bool = True

    def __str__(self) -> str:
        return f"{self.file}: {self.what}: {self.remedy}"


def listed(names: Sequence[str], most: int = 5) -> str:
    """The first names, and how many more there are: `a, b and 3 more`."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
