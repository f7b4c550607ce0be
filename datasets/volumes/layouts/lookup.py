"""The volumes of a folder, found by their paths as people write them in lists."""

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from datasets.files import NIFTI_ENDINGS
from datasets.scan import Scan
from datasets.volumes.layouts.cases import is_volume

CHANNEL = re.compile(r"(.+)_(\d{4})")  # nnU-Net's CASE_0000, CASE_0001, ...


class Volumes:
    """The volumes below a folder by path, whatever the slashes, the capitals, the ending and the Unicode form are."""

    def __init__(self, found: Scan) -> None:
        self.root = found.root
        self.unusable = set(found.unusable)
        self.used: set[Path] = set()
        self._by_key: dict[str, list[Path]] = defaultdict(list)
        self._channels: dict[str, dict[int, list[Path]]] = defaultdict(lambda: defaultdict(list))
        for file in (*found.files, *filter(is_volume, found.unusable)):
            key = _key(str(file.relative_to(self.root)))
            self._by_key[key].append(file)
            if match := CHANNEL.fullmatch(key):
                self._channels[match[1]][int(match[2])].append(file)

    def find(self, listed: str) -> list[Path]:
        """The file that a listed path names; several where it is ambiguous, none where it is missing."""
        exact = self.root / listed
        if exact in self.unusable or os.path.isfile(exact):  # noqa: PTH113 (Path.is_file raises in a closed folder)
            return [exact]
        return self._by_key.get(_key(listed), [])

    def channels(self, listed: str) -> dict[int, list[Path]]:
        """The files of the channels of an image that is listed without a number."""
        return dict(sorted(self._channels.get(_key(listed), {}).items()))

    def reported(self, path: Path) -> bool:
        """Whether the scan has a bad finding about this file, or about a folder that it lies in."""
        return path in self.unusable or not self.unusable.isdisjoint(path.parents)

    def use(self, paths: Iterable[Path]) -> None:
        """Note that these belong to a case."""
        self.used.update(paths)

    def unused(self, folder: str) -> list[Path]:
        """The volumes in a folder of the root, such as imagesTr, that belong to no case, in order."""
        mine = (paths for key, paths in self._by_key.items() if key.startswith(f"{folder.casefold()}/"))
        return sorted(path for paths in mine for path in paths if path not in self.used)

    def alike(self, path: Path) -> list[Path]:
        """The volumes of the same name in a folder of the same name, such as imagesTr/a.nii.gz elsewhere."""
        every = (other for paths in self._by_key.values() for other in paths)
        return [other for other in every if other.parts[-2:] == path.parts[-2:]]


def _key(listed: str) -> str:
    name = os.path.normpath(listed.replace("\\", "/"))
    suffix = next((suffix for suffix in NIFTI_ENDINGS if name.lower().endswith(suffix)), "")
    return unicodedata.normalize("NFC", name[: len(name) - len(suffix)]).casefold()
